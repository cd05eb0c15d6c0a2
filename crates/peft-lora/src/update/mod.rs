//! The effect of an adapter on a layer. Each kind of update is one file.

mod added;
mod dora;
mod low_rank;
mod residual;
mod trained;

use std::fmt::Debug;

use candle_core::{DType, Tensor, Var};
use train_ops::{AdaptedLinear, ForwardContext, FrozenLinear};

pub(crate) use added::{Added, OtherBase};
pub(crate) use dora::Dora;
pub(crate) use low_rank::LowRank;
pub(crate) use residual::Residual;
pub(crate) use trained::{OnlyBias, TrainedLinear};

use crate::{LoraConfig, Result};

/// The effect of an adapter on one linear layer.
///
/// Several adapters are applied one after another, as in PEFT: the first to the base layer, each other one to
/// the result `before` of the earlier ones.
pub(crate) trait LayerUpdate: Debug + Send + Sync {
    /// The layer's result for `xs` `(..., in_features)`, with a graph for the update's parameters in a training pass.
    fn forward(
        &self,
        base: &FrozenLinear,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor>;

    /// The layer with only this update, as a frozen layer with a plain low-rank adapter, for operations that
    /// span several layers; `None` if the update is of another kind.
    fn adapted(
        &self,
        _base: &FrozenLinear,
        _ctx: &ForwardContext,
    ) -> train_ops::Result<Option<AdaptedLinear>> {
        Ok(None)
    }

    /// Merges the update into `before`, the weights with the earlier adapters merged. `base` is the layer
    /// without adapters.
    fn merge(&self, base: &FrozenLinear, before: Weights) -> Result<Weights>;

    /// The change of the weight, f32.
    fn delta_weight(&self, base: &FrozenLinear) -> Result<Tensor> {
        let before = Weights::of(base)?;
        Ok((self.merge(base, before.clone())?.weight - before.weight)?)
    }

    /// The trainable parameters, each with the end of its name in files: `lora_A.weight`, ...
    fn parameters(&self) -> Vec<(&'static str, Var)>;

    /// The tensors that are saved in files, with the same ends of names in the same order.
    fn saved(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let tensors = self.parameters().into_iter();
        Ok(tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect())
    }

    /// The shapes of these tensors in files with this configuration.
    fn shapes_in(&self, _files: &LoraConfig) -> Vec<Vec<usize>> {
        self.parameters().into_iter().map(|(_, var)| var.dims().to_vec()).collect()
    }

    /// Sets the parameters from tensors of files: those of [`saved`](Self::saved), in the shapes of
    /// [`shapes_in`](Self::shapes_in). The parameters stay the same variables.
    fn restore(&self, _base: &FrozenLinear, tensors: Vec<Tensor>) -> Result<()> {
        for ((_, parameter), tensor) in self.parameters().into_iter().zip(tensors) {
            parameter.set(&tensor.to_device(parameter.device())?)?;
        }
        Ok(())
    }

    /// The low-rank part, if there is one.
    fn low_rank(&self) -> Option<&LowRank> {
        None
    }
}

/// Weight and bias of a linear layer in f32.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl Weights {
    /// As a frozen layer.
    pub(crate) fn of(base: &FrozenLinear) -> Result<Self> {
        Ok(Self { weight: base.weight()?.to_dtype(DType::F32)?, bias: base.bias().cloned() })
    }
}
