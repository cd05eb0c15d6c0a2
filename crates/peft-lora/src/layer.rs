use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Tensor, Var};
use train_ops::{
    AdaptedLinear, Dropout, ForwardContext, FrozenLinear, LinearLayer, LoraWeights, lora_linear,
};

use crate::init::initial_weights;
use crate::matching::LayerOptions;
use crate::{Error, LoraConfig, Result};

/// A frozen linear layer with a low-rank adapter: `y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ`, with `s = alpha / r`
/// (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>; as PEFT's `lora.Linear`).
///
/// Only `A` and `B` are trained. They are f32, whatever the type of the base's weight.
#[derive(Debug)]
pub struct LoraLinear {
    base: FrozenLinear,
    a: Var,
    b: Var,
    options: LayerOptions,
    dropout: Dropout,
    switch: Switch,
    merged: RwLock<Option<Arc<FrozenLinear>>>,
}

impl LoraLinear {
    pub(crate) fn new(
        base: FrozenLinear,
        options: LayerOptions,
        config: &LoraConfig,
        seed: u64,
        switch: Switch,
    ) -> train_ops::Result<Self> {
        let sizes = (options.rank, base.in_features(), base.out_features());
        let device = base.device();
        let (a, b) = initial_weights(config.init_lora_weights, seed, base.path(), sizes, device)?;
        Ok(Self {
            dropout: Dropout::new(&format!("{}.lora_dropout", base.path()), config.lora_dropout as f32)?,
            base,
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            options,
            switch,
            merged: RwLock::new(None),
        })
    }

    /// Dotted checkpoint path of the layer.
    pub fn path(&self) -> &str {
        self.base.path()
    }

    /// The rank `r`.
    pub fn rank(&self) -> usize {
        self.options.rank
    }

    /// The numerator of the scale.
    pub fn alpha(&self) -> f64 {
        self.options.alpha
    }

    /// The scale of the update: `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub fn scale(&self) -> f64 {
        self.options.scale
    }

    /// `A`, of shape `(r, in_features)`.
    pub fn a(&self) -> &Var {
        &self.a
    }

    /// `B`, of shape `(out_features, r)`.
    pub fn b(&self) -> &Var {
        &self.b
    }

    /// The layer without its adapter. It never changes.
    pub fn base(&self) -> &FrozenLinear {
        &self.base
    }

    /// `ΔW = s B A`, of shape `(out_features, in_features)`, f32, without gradients.
    pub fn delta_weight(&self) -> Result<Tensor> {
        let (a, b) = (self.a.as_detached_tensor(), self.b.as_detached_tensor());
        Ok((b.matmul(&a)? * self.options.scale)?)
    }

    /// `W + ΔW`, summed in f32 and rounded to the type of `W`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the rounded sum is not finite.
    pub fn merged_weight(&self) -> Result<Tensor> {
        let weight = self.base.weight()?;
        let sum = (weight.to_dtype(DType::F32)? + self.delta_weight()?)?.to_dtype(weight.dtype())?;
        if !is_finite(&sum)? {
            return Err(Error::NotFinite { action: "merge", tensor: format!("{}.weight", self.path()) });
        }
        Ok(sum)
    }

    /// The merged layer that replaces base and adapter, if there is one.
    pub(crate) fn merged(&self) -> Option<Arc<FrozenLinear>> {
        self.merged.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The merged layer, if there is one; an error in a training pass, since it cannot be trained.
    fn merged_for(&self, ctx: &ForwardContext) -> train_ops::Result<Option<Arc<FrozenLinear>>> {
        let merged = self.merged();
        if merged.is_some() && ctx.is_training() {
            let path = self.path().to_owned();
            let source = Box::new(Error::Merged { action: "train", path: path.clone() });
            return Err(train_ops::Error::Layer { path, source });
        }
        Ok(merged)
    }

    fn weights(&self, ctx: &ForwardContext) -> (Tensor, Tensor) {
        (ctx.parameter(self.a.as_tensor()), ctx.parameter(self.b.as_tensor()))
    }

    fn lora<'a>(&'a self, a: &'a Tensor, b: &'a Tensor) -> LoraWeights<'a> {
        LoraWeights { a, b, scale: self.options.scale, dropout: &self.dropout }
    }

    pub(crate) fn set_merged(&self, merged: Option<FrozenLinear>) {
        *self.merged.write().unwrap_or_else(PoisonError::into_inner) = merged.map(Arc::new);
    }
}

impl LinearLayer for LoraLinear {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        if self.switch.is_off() {
            return self.base.forward(xs, ctx);
        }
        match self.merged_for(ctx)? {
            Some(merged) => merged.forward(xs, ctx),
            None => {
                let (a, b) = self.weights(ctx);
                lora_linear(xs, &self.base, self.lora(&a, &b), ctx)
            }
        }
    }

    fn adapted(&self, ctx: &ForwardContext) -> train_ops::Result<Option<AdaptedLinear>> {
        if self.switch.is_off() {
            return self.base.adapted(ctx);
        }
        if let Some(merged) = self.merged_for(ctx)? {
            return merged.adapted(ctx);
        }
        let (a, b) = self.weights(ctx);
        AdaptedLinear::new(&self.base, Some(self.lora(&a, &b))).map(Some)
    }

    fn parameters(&self) -> Vec<Tensor> {
        [&self.a, &self.b].map(|variable| variable.as_tensor().clone()).to_vec()
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}

/// Whether every element is a finite number.
pub(crate) fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    // 0 x NaN and 0 x infinity are NaN, and the sum of anything with NaN is NaN.
    let zero = (tensor.to_dtype(DType::F32)? * 0.0)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}

/// Turns all layers of an adapter on and off at once. Clones share the same state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch {
    off: Arc<AtomicUsize>,
}

impl Switch {
    fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire) > 0
    }

    pub(crate) fn turn_off(&self) -> Disabled {
        self.off.fetch_add(1, Ordering::AcqRel);
        Disabled { switch: self.clone() }
    }
}

/// A guard that keeps an adapter disabled until it is dropped; made by
/// [`Adapter::disable`](crate::Adapter::disable).
#[derive(Debug)]
#[must_use = "the adapter is enabled again as soon as this is dropped"]
pub struct Disabled {
    switch: Switch,
}

impl Drop for Disabled {
    fn drop(&mut self) {
        self.switch.off.fetch_sub(1, Ordering::AcqRel);
    }
}
