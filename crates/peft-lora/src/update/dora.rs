use candle_core::{DType, Tensor, Var};
use train_ops::{
    Dropout, ForwardContext, FrozenLinear, LinearLayer as _, LoraWeights, lora_linear, scaled_features,
};

use super::low_rank::low_rank_product;
use super::{LayerUpdate, LowRank, Weights};
use crate::{Error, Result};

/// DoRA (Liu et al., 2024, <https://arxiv.org/abs/2402.09353>; as PEFT's `DoraLinearLayer`): with `W' = W + s B A`,
/// the rows of `W'` are scaled to the trained norms `m`:
///
/// ```text
/// y = g ⊙ (x Wᵀ + s (x Aᵀ) Bᵀ) + b        g = m / ‖W'‖ for each row
/// ```
///
/// The norm is a constant for the gradient (section 4.3 of the paper). With dropout, PEFT drops the input of both products
/// except in one `x Wᵀ`, so that `y = x Wᵀ + b - drop(x) Wᵀ + g ⊙ (drop(x) Wᵀ + s (drop(x) Aᵀ) Bᵀ)`.
#[derive(Debug)]
pub(crate) struct Dora {
    low_rank: LowRank,
    /// `m`, of shape `(out_features)`.
    magnitude: Var,
    /// `‖W‖²` of each row, of shape `(out_features)`.
    squared_norms: Tensor,
    no_dropout: Dropout,
}

impl Dora {
    /// A new update of `base`, with the norms of `W + s B A` as magnitudes.
    ///
    /// # Errors
    /// [`Error::ZeroRow`] if a row of the weight is zero, since its norm is a divisor.
    pub(crate) fn new(base: &FrozenLinear, low_rank: LowRank) -> Result<Self> {
        let squared_norms = base.weight()?.to_dtype(DType::F32)?.sqr()?.sum(1)?;
        let rows = squared_norms.to_vec1::<f32>()?;
        if let Some(row) = rows.iter().position(|norm| *norm == 0.0) {
            return Err(Error::ZeroRow { path: base.path().to_owned(), row });
        }
        let norms = norms(base, &low_rank, &squared_norms)?;
        Ok(Self {
            low_rank,
            magnitude: Var::from_tensor(&norms)?,
            squared_norms,
            no_dropout: Dropout::new(base.path(), 0.0)?,
        })
    }

    /// `g`, of shape `(out_features)`.
    fn factors(&self, base: &FrozenLinear, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let norms = norms(base, &self.low_rank, &self.squared_norms)?;
        Ok((ctx.parameter(self.magnitude.as_tensor()) / norms)?)
    }
}

/// `‖W + s B A‖` of each row without the product `B A`: `‖W‖² + 2 s Σ (W Aᵀ) ⊙ B + s² Σ (B (A Aᵀ)) ⊙ B`.
fn norms(base: &FrozenLinear, low_rank: &LowRank, squared_norms: &Tensor) -> train_ops::Result<Tensor> {
    let (a, b) = (low_rank.a.as_detached_tensor(), low_rank.b.as_detached_tensor());
    let scale = low_rank.scale();
    let products = base.with_bias(None)?.forward(&a, &ForwardContext::inference())?.t()?;
    let mixed = ((products * &b)?.sum(1)? * (2.0 * scale))?;
    let of_update = ((b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)? * (scale * scale))?;
    Ok(((squared_norms + mixed)? + of_update)?.relu()?.sqrt()?)
}

impl LayerUpdate for Dora {
    fn forward(
        &self,
        base: &FrozenLinear,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let factors = self.factors(base, ctx)?;
        let (a, b) = self.low_rank.weights(ctx);
        let (scale, without_bias) = (self.low_rank.scale(), base.with_bias(None)?);
        let both = |xs: &Tensor| {
            let lora = LoraWeights { a: &a, b: &b, scale, dropout: &self.no_dropout };
            lora_linear(xs, &without_bias, lora, ctx)
        };
        let drops = ctx.is_training() && self.low_rank.dropout.p() > 0.0;
        match before {
            None if !drops => scaled_features(&both(xs)?, &factors, base.bias()),
            Some(before) if !drops => {
                let before = base.bias().map_or(Ok(before.clone()), |bias| before.broadcast_sub(bias))?;
                let sum = (before + low_rank_product(xs, &a, &b, scale)?)?;
                scaled_features(&sum, &factors, base.bias())
            }
            before => {
                let before = before.map_or_else(|| base.forward(xs, ctx), Ok)?;
                let dropped = self.low_rank.dropout.forward(xs, ctx)?;
                let scaled = scaled_features(&both(&dropped)?, &factors, None)?;
                Ok(((before + scaled)? - without_bias.forward(&dropped, ctx)?)?)
            }
        }
    }

    fn merge(&self, base: &FrozenLinear, before: Weights) -> Result<Weights> {
        let factors = self.factors(base, &ForwardContext::inference())?.unsqueeze(1)?;
        let weight = (before.weight + self.low_rank.delta_weight()?)?.broadcast_mul(&factors)?;
        Ok(Weights { weight, ..before })
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        let mut parameters = self.low_rank.parameters();
        parameters.push(("lora_magnitude_vector", self.magnitude.clone()));
        parameters
    }

    fn low_rank(&self) -> Option<&LowRank> {
        Some(&self.low_rank)
    }
}
