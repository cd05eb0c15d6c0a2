use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{Tensor, Var};

use crate::{Convolution, Error, ForwardContext, FrozenLinear, LinearLayer, Result, TrainableLinear};

/// Builds the layers of a model, and so decides which parts are trained and how. A model calls it for each of
/// its layers.
///
/// Paths are those of the checkpoint, dotted and without `.weight`: `git.encoder.layer.0.attention.self.query`.
pub trait LayerBuilder {
    /// The linear layer at `path`, from its `weight` of shape `(out_features, in_features)` and its `bias` of shape
    /// `(out_features)`.
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>>;

    /// Any other parameter (embedding, norm, convolution, class token) at its full `path`,
    /// `git.embeddings.LayerNorm.weight`. The model uses the returned tensor, which has the shape of `value`.
    fn parameter(&mut self, path: &str, value: Tensor) -> Result<Tensor>;

    /// The adaptation of the embedding at `path`; by default none. `weight`, of shape `(rows, width)`, is the
    /// frozen tensor that [`parameter`](Self::parameter) returned.
    ///
    /// # Errors
    /// If the builder refuses the layer.
    fn adapt_embedding(&mut self, _path: &str, _weight: &Tensor) -> Result<Option<Arc<dyn Adaptation>>> {
        Ok(None)
    }

    /// The adaptation of the convolution over two dimensions at `path`; by default none. `weight`, of shape
    /// `(out_channels, in_channels / groups, height, width)`, is the frozen tensor that
    /// [`parameter`](Self::parameter) returned.
    ///
    /// # Errors
    /// If the builder refuses the layer.
    fn adapt_conv2d(
        &mut self,
        _path: &str,
        _weight: &Tensor,
        _convolution: Convolution,
    ) -> Result<Option<Arc<dyn Adaptation>>> {
        Ok(None)
    }
}

/// The adapters of a layer that is not linear: an embedding or a convolution.
pub trait Adaptation: Debug + Send + Sync {
    /// The layer's result, from its input `xs` and its result `ys` without adapters, in the shape of `ys`. For
    /// an embedding, `xs` are the ids `(...)` and `ys` is `(..., width)`; for a convolution, both are
    /// `(batch, channels, height, width)`. In a training pass it is differentiable in `xs`, `ys` and the
    /// adapters' parameters.
    ///
    /// # Errors
    /// If the adapters cannot serve this pass.
    fn forward(&self, xs: &Tensor, ys: Tensor, ctx: &ForwardContext) -> Result<Tensor>;
}

/// Builds every layer frozen. Values that track gradients, such as those of a `VarMap`, are detached from the
/// graph.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrozenBuilder;

impl LayerBuilder for FrozenBuilder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        Ok(Arc::new(FrozenLinear::new(path, weight, bias)?))
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> Result<Tensor> {
        Ok(value.detach())
    }
}

/// Builds every layer frozen, with linear weights in int8: [`FrozenLinear::quantised`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Int8Builder;

impl LayerBuilder for Int8Builder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        Ok(Arc::new(FrozenLinear::quantised(path, weight, bias)?))
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> Result<Tensor> {
        Ok(value.detach())
    }
}

/// Builds every layer trainable: full fine-tuning, or pre-training.
///
/// [`finish`](Self::finish) returns the variables.
#[derive(Debug, Default)]
pub struct TrainableBuilder {
    parameters: BTreeMap<String, Var>,
}

impl TrainableBuilder {
    /// A builder without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// All variables by their checkpoint names (`….weight`, `….bias`).
    pub fn finish(self) -> BTreeMap<String, Var> {
        self.parameters
    }

    fn variable(&mut self, path: String, value: &Tensor) -> Result<Tensor> {
        let variable = Var::from_tensor(value)?;
        let tensor = variable.as_tensor().clone();
        match self.parameters.insert(path.clone(), variable) {
            None => Ok(tensor),
            Some(_) => Err(Error::Duplicate { path }),
        }
    }
}

impl LayerBuilder for TrainableBuilder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        let weight = self.variable(format!("{path}.weight"), &weight)?;
        let bias = bias.map(|bias| self.variable(format!("{path}.bias"), &bias)).transpose()?;
        Ok(Arc::new(TrainableLinear::new(path, weight, bias)?))
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> Result<Tensor> {
        self.variable(path.to_owned(), &value)
    }
}
