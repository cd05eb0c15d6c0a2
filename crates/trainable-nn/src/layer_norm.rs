//! Layer normalisation and root mean square normalisation.

use candle_core::{Module, Result, Tensor};
use candle_nn::Init;
pub use candle_nn::LayerNormConfig;

use crate::{VarBuilder, current_context, ops};

/// Layer normalisation over the last dimension; without removing the mean, root mean square normalisation.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    remove_mean: bool,
    eps: f64,
    built: bool,
}

impl LayerNorm {
    /// From a weight and a bias of shape `(features)`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps, built: false }
    }

    /// From a weight of shape `(features)`, without bias.
    pub fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: true, eps, built: false }
    }

    /// Root mean square normalisation, from a weight of shape `(features)`.
    pub fn rms_norm(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: false, eps, built: false }
    }

    /// The weight, of shape `(features)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, of shape `(features)`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Whether the mean is removed.
    pub fn remove_mean(&self) -> bool {
        self.remove_mean
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let weight = parameter(&self.weight, self.built);
        let bias = self.bias.as_ref().map(|bias| parameter(bias, self.built));
        if self.remove_mean {
            let bias = bias.map_or_else(|| weight.zeros_like(), Ok)?;
            return ops::normalise(xs, &weight, &bias, self.eps);
        }
        let ys = ops::rms_normalise(xs, &weight, self.eps)?;
        bias.map_or(Ok(ys.clone()), |bias| ys.broadcast_add(&bias))
    }
}

/// A trainable parameter for the forward context of this thread; unchanged if no builder made it.
pub(crate) fn parameter(parameter: &Tensor, built: bool) -> Tensor {
    if built { current_context().parameter(parameter) } else { parameter.clone() }
}

/// Layer normalisation from the tensors `weight` (or `gamma`) and, if `config` is affine, `bias` (or `beta`).
///
/// # Errors
/// If one is missing or has another shape.
pub fn layer_norm<C: Into<LayerNormConfig>>(size: usize, config: C, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    let config = config.into();
    let named = |names: [&'static str; 2], init| {
        let name = names.into_iter().find(|name| vb.contains_tensor(name)).unwrap_or(names[0]);
        vb.get_with_hints(size, name, Init::Const(init))
    };
    Ok(LayerNorm {
        weight: named(["weight", "gamma"], 1.)?,
        bias: config.affine.then(|| named(["bias", "beta"], 0.)).transpose()?,
        remove_mean: config.remove_mean,
        eps: config.eps,
        built: vb.is_built(),
    })
}

/// Layer normalisation without bias.
///
/// # Errors
/// As [`layer_norm`].
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    layer_norm(size, LayerNormConfig { eps, remove_mean: true, affine: false }, vb)
}

/// Root mean square normalisation over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm(LayerNorm);

impl RmsNorm {
    /// From a weight of shape `(features)`.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self(LayerNorm::rms_norm(weight, eps))
    }

    /// The norm as a [`LayerNorm`].
    pub fn into_inner(self) -> LayerNorm {
        self.0
    }

    /// The weight, of shape `(features)`.
    pub fn weight(&self) -> &Tensor {
        self.0.weight()
    }

    /// Added to the mean square.
    pub fn eps(&self) -> f64 {
        self.0.eps()
    }

    /// The same as `forward`, which is differentiable here.
    ///
    /// # Errors
    /// If the last dimension is another.
    pub fn forward_diff(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

/// Root mean square normalisation from the tensor `weight`.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<RmsNorm> {
    layer_norm(size, LayerNormConfig { eps, remove_mean: false, affine: false }, vb).map(RmsNorm)
}
