//! A frozen layer with an adapter.

use candle_core::Tensor;
use train_ops::{
    AdaptedLinear, Dropout, ForwardContext, FrozenLinear, LinearLayer, LoraWeights, Result, lora_linear,
};

/// A frozen layer with an adapter; `known` is whether operations can see the adapter.
#[derive(Clone, Debug)]
pub(crate) struct Adapted {
    pub(crate) base: FrozenLinear,
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
    pub(crate) dropout: Dropout,
    pub(crate) known: bool,
}

impl Adapted {
    pub(crate) fn lora(&self) -> LoraWeights<'_> {
        LoraWeights { a: &self.a, b: &self.b, scale: self.scale, dropout: &self.dropout }
    }
}

impl LinearLayer for Adapted {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        lora_linear(xs, &self.base, self.lora(), ctx)
    }

    fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
        self.known.then(|| AdaptedLinear::new(&self.base, Some(self.lora()))).transpose()
    }

    fn parameters(&self) -> Vec<Tensor> {
        vec![self.a.clone(), self.b.clone()]
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}
