use std::fmt::Debug;

use candle_core::Tensor;

use crate::{AdaptedLinear, ForwardContext, FrozenLinear, Result};

/// A layer that maps `(..., in_features)` to `(..., out_features)`.
///
/// Models hold their linear layers as `Arc<dyn LinearLayer>`, made by a [`LayerBuilder`](crate::LayerBuilder), and so
/// do not know whether a layer is frozen, trainable or adapted.
pub trait LinearLayer: Debug + Send + Sync {
    /// `xs` has shape `(..., in_features)` and the result `(..., out_features)`.
    ///
    /// In a training pass the result is differentiable in `xs` and in the layer's trainable parameters. In an
    /// inference pass no graph is recorded for the layer's own parameters.
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor>;

    /// The trainable parameters that [`forward`](Self::forward) uses, for [`recompute`](crate::recompute);
    /// empty for a frozen layer.
    fn parameters(&self) -> Vec<Tensor>;

    /// Size of the last dimension of the input.
    fn in_features(&self) -> usize;

    /// Size of the last dimension of the output.
    fn out_features(&self) -> usize;

    /// The layer as a frozen layer with or without an adapter, for operations that span several layers, such as
    /// [`TransformerLayer`](crate::TransformerLayer). `None`, the default, for any other layer.
    ///
    /// # Errors
    /// As [`forward`](Self::forward) in this pass.
    fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
        Ok(None)
    }

    /// The frozen layer without adapters, if its weight is a part of this layer; by default that of [`adapted`](Self::adapted).
    fn frozen(&self) -> Option<FrozenLinear> {
        let adapted = self.adapted(&ForwardContext::inference()).ok().flatten()?;
        Some(adapted.base().clone())
    }

    /// The layer that a [`snapshot`](crate::snapshot()) copies: by default [`adapted`](Self::adapted) in
    /// inference. If that is `None`, a layer may return a frozen layer with the same result, such as one with
    /// merged weights. It is made once and then used for many passes.
    ///
    /// # Errors
    /// As [`forward`](Self::forward) in inference.
    fn for_snapshot(&self) -> Result<Option<AdaptedLinear>> {
        self.adapted(&ForwardContext::inference())
    }
}
