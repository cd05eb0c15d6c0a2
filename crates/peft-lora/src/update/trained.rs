use candle_core::{DType, Tensor, Var};
use train_ops::{ForwardContext, FrozenLinear, LinearLayer as _, TrainableLinear};

use super::{LayerUpdate, Weights};
use crate::Result;

/// A layer of `modules_to_save`: a trained copy replaces it.
#[derive(Debug)]
pub(crate) struct TrainedLinear {
    weight: Var,
    bias: Option<Var>,
}

impl TrainedLinear {
    /// A copy of `base`, in f32.
    pub(crate) fn new(base: &FrozenLinear) -> Result<Self> {
        let weight = Var::from_tensor(&base.weight()?.to_dtype(DType::F32)?)?;
        let bias = base.bias().map(Var::from_tensor).transpose()?;
        Ok(Self { weight, bias })
    }
}

impl LayerUpdate for TrainedLinear {
    fn forward(
        &self,
        base: &FrozenLinear,
        _before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.as_tensor().clone());
        TrainableLinear::new(base.path(), self.weight.as_tensor().clone(), bias)?.forward(xs, ctx)
    }

    fn merge(&self, _base: &FrozenLinear, _before: Weights) -> Result<Weights> {
        let bias = self.bias.as_ref().map(Var::as_detached_tensor);
        Ok(Weights { weight: self.weight.as_detached_tensor(), bias })
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        let bias = self.bias.iter().map(|bias| ("bias", bias.clone()));
        [("weight", self.weight.clone())].into_iter().chain(bias).collect()
    }
}

/// The update of a layer whose bias alone is trained: it adds nothing to the layer's product.
#[derive(Debug)]
pub(crate) struct OnlyBias;

impl LayerUpdate for OnlyBias {
    fn forward(
        &self,
        base: &FrozenLinear,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        before.map_or_else(|| base.forward(xs, ctx), Ok)
    }

    fn adapted(
        &self,
        base: &FrozenLinear,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Option<train_ops::AdaptedLinear>> {
        base.adapted(ctx)
    }

    fn merge(&self, _base: &FrozenLinear, before: Weights) -> Result<Weights> {
        Ok(before)
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        Vec::new()
    }
}
