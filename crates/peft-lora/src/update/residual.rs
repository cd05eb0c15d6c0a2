use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Tensor, Var};
use train_ops::{AdaptedLinear, ForwardContext, FrozenLinear};

use super::low_rank::low_rank_product;
use super::{LayerUpdate, LowRank, Weights};
use crate::{LoraConfig, Result};

/// LoRA that is initialised with a part of the weight (PiSSA, OLoRA): `y = x W'ᵀ + b + s (drop(x) Aᵀ) Bᵀ` with
/// the residual `W' = W - s B₀ A₀`, where `A₀` and `B₀` are the initial values of `A` and `B`.
///
/// Files hold the same update for the original weight, a plain LoRA of twice the rank with `[A; A₀]` and `[B, -B₀]`,
/// as PEFT's `subtract_mutated_init` makes it.
#[derive(Debug)]
pub(crate) struct Residual {
    low_rank: LowRank,
    first: RwLock<Arc<First>>,
}

/// The initial `A` and `B`, and the layer with the residual as its weight.
#[derive(Debug)]
struct First {
    a: Tensor,
    b: Tensor,
    residual: FrozenLinear,
}

impl First {
    fn new(base: &FrozenLinear, a: Tensor, b: Tensor, scale: f64) -> Result<Self> {
        let weight = base.weight()?;
        let rest = (weight.to_dtype(DType::F32)? - (b.matmul(&a)? * scale)?)?.to_dtype(weight.dtype())?;
        Ok(Self { a, b, residual: base.with_weight(rest, None)? })
    }
}

impl Residual {
    /// The update of `base` whose initial values are those of `low_rank`.
    pub(crate) fn new(base: &FrozenLinear, low_rank: LowRank) -> Result<Self> {
        let (a, b) = (low_rank.a.as_detached_tensor().copy()?, low_rank.b.as_detached_tensor().copy()?);
        let first = First::new(base, a, b, low_rank.scale())?;
        Ok(Self { low_rank, first: RwLock::new(Arc::new(first)) })
    }

    fn first(&self) -> Arc<First> {
        self.first.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The residual with the bias of `base`.
    fn base(&self, base: &FrozenLinear) -> train_ops::Result<FrozenLinear> {
        self.first().residual.with_bias(base.bias().cloned())
    }
}

impl LayerUpdate for Residual {
    fn forward(
        &self,
        base: &FrozenLinear,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let Some(before) = before else { return self.low_rank.forward_on(&self.base(base)?, xs, ctx) };
        let first = self.first();
        let subtracted = low_rank_product(xs, &first.a, &first.b, self.low_rank.scale())?;
        Ok(((before + self.low_rank.product(xs, ctx)?)? - subtracted)?)
    }

    fn adapted(&self, base: &FrozenLinear, ctx: &ForwardContext) -> train_ops::Result<Option<AdaptedLinear>> {
        self.low_rank.adapted_on(&self.base(base)?, ctx)
    }

    fn merge(&self, _base: &FrozenLinear, before: Weights) -> Result<Weights> {
        let first = self.first();
        let subtracted = (first.b.matmul(&first.a)? * self.low_rank.scale())?;
        let change = (self.low_rank.delta_weight()? - subtracted)?;
        Ok(Weights { weight: (before.weight + change)?, ..before })
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        self.low_rank.parameters()
    }

    fn saved(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let first = self.first();
        let a = Tensor::cat(&[&self.low_rank.a.as_detached_tensor(), &first.a], 0)?;
        let b = Tensor::cat(&[&self.low_rank.b.as_detached_tensor(), &first.b.neg()?], 1)?;
        Ok(vec![("lora_A.weight", a), ("lora_B.weight", b)])
    }

    /// Files whose configuration names the initialisation have only `A` and `B`, which belong to the residual
    /// of that initialisation.
    fn shapes_in(&self, files: &LoraConfig) -> Vec<Vec<usize>> {
        let rank = match files.init_lora_weights.changes_base() {
            true => self.low_rank.options.rank,
            false => 2 * self.low_rank.options.rank,
        };
        let first = self.first();
        vec![vec![rank, first.a.dims()[1]], vec![first.b.dims()[0], rank]]
    }

    fn restore(&self, base: &FrozenLinear, tensors: Vec<Tensor>) -> Result<()> {
        let (rank, scale) = (self.low_rank.options.rank, self.low_rank.scale());
        let [a, b] = &tensors[..] else { return Ok(()) };
        let (a, b) = (a.to_device(self.low_rank.a.device())?, b.to_device(self.low_rank.b.device())?);
        if a.dim(0)? == 2 * rank {
            let first_a = a.narrow(0, rank, rank)?.contiguous()?;
            let first_b = b.narrow(1, rank, rank)?.neg()?.contiguous()?;
            let first = First::new(base, first_a, first_b, scale)?;
            *self.first.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(first);
        }
        self.low_rank.a.set(&a.narrow(0, 0, rank)?.contiguous()?)?;
        self.low_rank.b.set(&b.narrow(1, 0, rank)?.contiguous()?)?;
        Ok(())
    }

    fn low_rank(&self) -> Option<&LowRank> {
        Some(&self.low_rank)
    }
}
