//! Linear layers.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Error, Module, Result, Tensor};
use candle_nn::Init;
use train_ops::{ForwardContext, FrozenLinear, LinearLayer, TrainableLinear};

use crate::error::to_candle;
use crate::{VarBuilder, current_context};

/// `y = x Wᵀ + b` from `(..., in_dim)` to `(..., out_dim)`: frozen, with an adapter, or trained.
#[derive(Clone, Debug)]
pub struct Linear {
    kind: Kind,
    /// Read from the layer at the first request.
    weight: OnceLock<Tensor>,
    bias: OnceLock<Option<Tensor>>,
    /// Returned as the weight of a layer that has none.
    absent: Tensor,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Made by a [`LayerBuilder`](crate::LayerBuilder): uses the forward context that the thread has entered.
    Built(Arc<dyn LinearLayer>),
    /// Made from tensors: trained if they are variables, whatever the context.
    Plain(Arc<dyn LinearLayer>),
    /// Shapes that do not fit. [`Linear::new`] cannot fail, so the forward pass does.
    Refused(String),
}

impl Linear {
    /// From a weight of shape `(out_dim, in_dim)` and a bias of shape `(out_dim)`. The layer is trained if
    /// these are variables or computed from variables, and constant otherwise. It never gets an adapter, since
    /// it has no path. The tensors are kept; on the CPU, a constant weight is also stored in packed form.
    ///
    /// If the shapes do not fit, the forward pass returns an error.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let is_trained = weight.track_op() || bias.as_ref().is_some_and(Tensor::track_op);
        let (given, given_bias) = (weight.clone(), bias.clone());
        let layer: train_ops::Result<Arc<dyn LinearLayer>> = if is_trained {
            TrainableLinear::new("Linear", weight, bias).map(|layer| Arc::new(layer) as _)
        } else {
            FrozenLinear::new("Linear", weight, bias).map(|layer| Arc::new(layer) as _)
        };
        Self {
            kind: layer.map_or_else(|error| Kind::Refused(error.to_string()), Kind::Plain),
            weight: given.clone().into(),
            bias: given_bias.into(),
            absent: given,
        }
    }

    pub(crate) fn built(layer: Arc<dyn LinearLayer>) -> Result<Self> {
        let absent = Tensor::zeros((0, 0), DType::F32, &Device::Cpu)?;
        Ok(Self { kind: Kind::Built(layer), weight: OnceLock::new(), bias: OnceLock::new(), absent })
    }

    /// The weight without an adapter, of shape `(out_dim, in_dim)`; of shape `(0, 0)` for a layer of a
    /// [`LayerBuilder`](crate::LayerBuilder) that has no such weight.
    ///
    /// A frozen layer stores its weight in packed form. The first call makes a tensor of it, which takes the
    /// same memory again.
    pub fn weight(&self) -> &Tensor {
        self.weight.get_or_init(|| {
            let Kind::Built(layer) = &self.kind else { return self.absent.clone() };
            let base = layer.frozen().and_then(|base| base.weight().ok());
            let shape = [layer.out_features(), layer.in_features()];
            base.or_else(|| trained(layer, &shape)).unwrap_or_else(|| self.absent.clone())
        })
    }

    /// The bias, of shape `(out_dim)`.
    pub fn bias(&self) -> Option<&Tensor> {
        let bias = self.bias.get_or_init(|| {
            let Kind::Built(layer) = &self.kind else { return None };
            let base = layer.frozen().and_then(|base| base.bias().cloned());
            base.or_else(|| trained(layer, &[layer.out_features()]))
        });
        bias.as_ref()
    }

    fn layer(&self) -> Result<&Arc<dyn LinearLayer>> {
        match &self.kind {
            Kind::Built(layer) | Kind::Plain(layer) => Ok(layer),
            Kind::Refused(message) => Err(Error::Msg(message.clone())),
        }
    }
}

/// A trained parameter of this shape.
fn trained(layer: &Arc<dyn LinearLayer>, shape: &[usize]) -> Option<Tensor> {
    layer.parameters().into_iter().find(|parameter| parameter.dims() == shape)
}

impl Module for Linear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ctx = match &self.kind {
            Kind::Built(_) => current_context(),
            _ => ForwardContext::training([]),
        };
        self.layer()?.forward(xs, &ctx).map_err(to_candle)
    }
}

/// A linear layer with a bias, from the tensors `weight` and `bias`.
///
/// # Errors
/// If one is missing or has another shape, or the [`LayerBuilder`](crate::LayerBuilder) refuses the layer.
pub fn linear(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let bound = 1. / (in_dim as f64).sqrt();
    vb.linear(in_dim, out_dim, Some(Init::Uniform { lo: -bound, up: bound }))
}

/// A linear layer without bias, from the tensor `weight`.
///
/// # Errors
/// As [`linear`].
pub fn linear_no_bias(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    vb.linear(in_dim, out_dim, None)
}

/// A linear layer, with a bias if `bias` is true.
///
/// # Errors
/// As [`linear`].
pub fn linear_b(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Linear> {
    if bias { linear(in_dim, out_dim, vb) } else { linear_no_bias(in_dim, out_dim, vb) }
}
