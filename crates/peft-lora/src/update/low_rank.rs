use candle_core::{DType, Tensor, Var};
use train_ops::{
    AdaptedLinear, Dropout, ForwardContext, FrozenLinear, LinearLayer as _, LoraWeights, lora_linear,
};

use super::{LayerUpdate, Weights};
use crate::init::initial_weights;
use crate::matching::LayerOptions;
use crate::{LoraConfig, Result};

/// LoRA: `y + s (drop(x) Aᵀ) Bᵀ`, with `s = alpha / r` (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>),
/// plus `s c` with a trained bias `c` (`lora_bias`).
#[derive(Debug)]
pub(crate) struct LowRank {
    pub(crate) a: Var,
    pub(crate) b: Var,
    bias: Option<Var>,
    pub(crate) options: LayerOptions,
    pub(crate) dropout: Dropout,
}

impl LowRank {
    /// A new update of the layer `base`.
    pub(crate) fn new(
        base: &FrozenLinear,
        options: LayerOptions,
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        let (a, b) = initial_weights(config.init_lora_weights, seed, base, options)?;
        let bias = config.lora_bias.then(|| Var::zeros(base.out_features(), DType::F32, base.device()));
        Ok(Self {
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            bias: bias.transpose()?,
            options,
            dropout: Dropout::new(&format!("{}.lora_dropout", base.path()), config.lora_dropout as f32)?,
        })
    }

    pub(crate) fn scale(&self) -> f64 {
        self.options.scale
    }

    /// `A` and `B` for the pass `ctx`.
    pub(crate) fn weights(&self, ctx: &ForwardContext) -> (Tensor, Tensor) {
        (ctx.parameter(self.a.as_tensor()), ctx.parameter(self.b.as_tensor()))
    }

    /// `s B A`, f32, without gradients.
    pub(crate) fn delta_weight(&self) -> Result<Tensor> {
        let (a, b) = (self.a.as_detached_tensor(), self.b.as_detached_tensor());
        Ok((b.matmul(&a)? * self.scale())?)
    }

    /// The frozen layer `base` with this update, as one operation.
    pub(super) fn forward_on(
        &self,
        base: &FrozenLinear,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let (a, b) = self.weights(ctx);
        let lora = LoraWeights { a: &a, b: &b, scale: self.scale(), dropout: &self.dropout };
        let ys = lora_linear(xs, base, lora, ctx)?;
        self.add_bias(ys, ctx)
    }

    pub(super) fn adapted_on(
        &self,
        base: &FrozenLinear,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Option<AdaptedLinear>> {
        let (a, b) = self.weights(ctx);
        let lora = LoraWeights { a: &a, b: &b, scale: self.scale(), dropout: &self.dropout };
        match &self.bias {
            None => AdaptedLinear::new(base, Some(lora)).map(Some),
            Some(_) if ctx.is_training() => Ok(None),
            Some(bias) => {
                let bias = (bias.as_detached_tensor() * self.scale())?;
                let bias = base.bias().map_or(Ok(bias.clone()), |base| base + &bias)?;
                AdaptedLinear::new(&base.with_bias(Some(bias))?, Some(lora)).map(Some)
            }
        }
    }

    /// `s (drop(x) Aᵀ) Bᵀ` alone.
    pub(super) fn product(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let (a, b) = self.weights(ctx);
        let product = low_rank_product(&self.dropout.forward(xs, ctx)?, &a, &b, self.scale())?;
        self.add_bias(product, ctx)
    }

    fn add_bias(&self, ys: Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let Some(bias) = &self.bias else { return Ok(ys) };
        let bias = (ctx.parameter(bias.as_tensor()) * self.scale())?.to_dtype(ys.dtype())?;
        Ok(ys.broadcast_add(&bias)?)
    }
}

/// `s (x Aᵀ) Bᵀ` of `x` `(..., in_features)`.
pub(super) fn low_rank_product(
    xs: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> candle_core::Result<Tensor> {
    let mut shape = xs.dims().to_vec();
    let rows = xs.reshape(((), a.dim(1)?))?.to_dtype(a.dtype())?;
    let product = (rows.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?.to_dtype(xs.dtype())?;
    if let Some(last) = shape.last_mut() {
        *last = b.dim(0)?;
    }
    product.reshape(shape)
}

impl LayerUpdate for LowRank {
    fn forward(
        &self,
        base: &FrozenLinear,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        match before {
            None => self.forward_on(base, xs, ctx),
            Some(before) => Ok((before + self.product(xs, ctx)?)?),
        }
    }

    fn adapted(&self, base: &FrozenLinear, ctx: &ForwardContext) -> train_ops::Result<Option<AdaptedLinear>> {
        self.adapted_on(base, ctx)
    }

    fn merge(&self, _base: &FrozenLinear, before: Weights) -> Result<Weights> {
        let bias = match &self.bias {
            None => before.bias,
            Some(own) => {
                let own = (own.as_detached_tensor() * self.scale())?;
                Some(before.bias.map_or(Ok(own.clone()), |bias| bias + &own)?)
            }
        };
        Ok(Weights { weight: (before.weight + self.delta_weight()?)?, bias })
    }

    fn delta_weight(&self, _base: &FrozenLinear) -> Result<Tensor> {
        LowRank::delta_weight(self)
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        let matrices = [("lora_A.weight", self.a.clone()), ("lora_B.weight", self.b.clone())];
        let bias = self.bias.iter().map(|bias| ("lora_B.bias", bias.clone()));
        matrices.into_iter().chain(bias).collect()
    }

    fn low_rank(&self) -> Option<&LowRank> {
        Some(self)
    }
}
