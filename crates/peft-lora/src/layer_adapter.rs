use candle_core::{DType, Tensor, Var};
use train_ops::{AdaptedLinear, ForwardContext, FrozenLinear};

use crate::finite::is_finite;
use crate::matching::{Decision, Targets};
use crate::update::{Dora, LayerUpdate, LowRank, OnlyBias, Residual, TrainedLinear, Weights};
use crate::{Bias, Error, LoraConfig, Result};

/// The bias of an adapted layer, which PEFT wraps.
pub(crate) const ADAPTED_BIAS: &str = "base_layer.bias";

/// The effect of an adapter on one layer: an update, and perhaps a trained copy of the layer's bias.
#[derive(Debug)]
pub(crate) struct LayerAdapter {
    pub(crate) base: FrozenLinear,
    pub(crate) update: Box<dyn LayerUpdate>,
    bias: Option<Var>,
}

impl LayerAdapter {
    /// The effect of a configuration on the layer `base`; `None` if it has none.
    pub(crate) fn new(
        config: &LoraConfig,
        targets: &Targets,
        base: FrozenLinear,
        seed: u64,
    ) -> Result<Option<Self>> {
        let path = base.path();
        let adapted = targets.decide(path)? == Decision::Adapted;
        let update: Box<dyn LayerUpdate> = if targets.saves_module(path) {
            Box::new(TrainedLinear::new(&base)?)
        } else if adapted {
            let low_rank = LowRank::new(&base, targets.options(path)?, config, seed)?;
            match config {
                LoraConfig { use_dora: true, .. } => Box::new(Dora::new(&base, low_rank)?),
                config if config.init_lora_weights.changes_base() => {
                    Box::new(Residual::new(&base, low_rank)?)
                }
                _ => Box::new(low_rank),
            }
        } else if config.bias == Bias::All && base.bias().is_some() {
            Box::new(OnlyBias)
        } else {
            return Ok(None);
        };
        let trains_bias = match config.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => adapted,
        };
        let bias = base.bias().filter(|_| trains_bias).map(Var::from_tensor).transpose()?;
        Ok(Some(Self { base, update, bias }))
    }

    /// The base layer for the update, and the trained bias, which is added afterwards so that it gets a
    /// gradient.
    fn base_for(&self, ctx: &ForwardContext) -> train_ops::Result<(FrozenLinear, Option<&Var>)> {
        match &self.bias {
            None => Ok((self.base.clone(), None)),
            Some(bias) if ctx.is_training() => Ok((self.base.with_bias(None)?, Some(bias))),
            // A copy, since a snapshot does not change with the parameter.
            Some(bias) => Ok((self.base.with_bias(Some(bias.as_detached_tensor().copy()?))?, None)),
        }
    }

    /// The layer with this adapter, applied after the adapters that computed `before`.
    pub(crate) fn forward(
        &self,
        before: Option<Tensor>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let (base, bias) = self.base_for(ctx)?;
        let ys = self.update.forward(&base, before, xs, ctx)?;
        match bias {
            None => Ok(ys),
            Some(bias) => Ok(ys.broadcast_add(&bias.as_tensor().to_dtype(ys.dtype())?)?),
        }
    }

    /// The layer with this adapter alone, for operations that span several layers.
    pub(crate) fn adapted(&self, ctx: &ForwardContext) -> train_ops::Result<Option<AdaptedLinear>> {
        match self.base_for(ctx)? {
            (base, None) => self.update.adapted(&base, ctx),
            (_, Some(_)) => Ok(None),
        }
    }

    /// Merges this adapter into `before`, the weights with the earlier adapters merged.
    pub(crate) fn merge(&self, before: Weights) -> Result<Weights> {
        let bias = self.bias.as_ref().map(Var::as_detached_tensor).or(before.bias);
        self.update.merge(&self.base, Weights { weight: before.weight, bias })
    }

    /// The layer with this adapter merged into its weight, in the type of the base.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn merged(&self) -> Result<Weights> {
        finished(&self.base, self.merge(Weights::of(&self.base)?)?)
    }

    /// `ΔW`, f32.
    pub(crate) fn delta_weight(&self) -> Result<Tensor> {
        self.update.delta_weight(&self.base)
    }

    /// The merged tensors of the layer that differ from the base model's, by their names there.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and [`Error::NoBias`] if the base model has no such tensor.
    pub(crate) fn changed(&self) -> Result<Vec<(String, Tensor)>> {
        let path = self.base.path();
        let [biases, weights] = [true, false]
            .map(|is_bias| self.parameters().iter().any(|(name, _)| name.ends_with("bias") == is_bias));
        let Weights { weight, bias } = self.merged()?;
        let mut changed = Vec::new();
        if weights {
            changed.push((format!("{path}.weight"), weight));
        }
        if let Some(bias) = bias.filter(|_| biases) {
            if self.base.bias().is_none() {
                return Err(Error::NoBias { path: path.to_owned() });
            }
            changed.push((format!("{path}.bias"), bias));
        }
        Ok(changed)
    }

    /// Whether another weight replaces the base's.
    pub(crate) fn replaces_weight(&self) -> bool {
        self.update.parameters().iter().any(|(name, _)| *name == "weight")
    }

    fn bias_name(&self) -> &'static str {
        if self.update.low_rank().is_some() { ADAPTED_BIAS } else { "bias" }
    }

    pub(crate) fn parameters(&self) -> Vec<(&'static str, Var)> {
        let mut parameters = self.update.parameters();
        parameters.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.clone())));
        parameters
    }

    pub(crate) fn saved(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let mut saved = self.update.saved()?;
        saved.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.as_detached_tensor())));
        Ok(saved)
    }

    pub(crate) fn shapes_in(&self, files: &LoraConfig) -> Vec<(&'static str, Vec<usize>)> {
        let names = self.update.parameters().into_iter().map(|(name, _)| name);
        let mut shapes: Vec<_> = names.zip(self.update.shapes_in(files)).collect();
        shapes.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.dims().to_vec())));
        shapes
    }

    pub(crate) fn restore(&self, mut tensors: Vec<Tensor>) -> Result<()> {
        if let Some(own) = &self.bias
            && let Some(bias) = tensors.pop()
        {
            own.set(&bias.to_device(own.device())?)?;
        }
        self.update.restore(&self.base, tensors)
    }
}

/// Merged weights in the type of the base.
///
/// # Errors
/// [`Error::NotFinite`] if the rounded sum is not finite.
pub(crate) fn finished(base: &FrozenLinear, merged: Weights) -> Result<Weights> {
    let weight = merged.weight.to_dtype(base.dtype())?;
    let bias = merged.bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
    for (name, tensor) in [("weight", Some(&weight)), ("bias", bias.as_ref())] {
        if let Some(tensor) = tensor
            && !is_finite(tensor)?
        {
            let tensor = format!("{}.{name}", base.path());
            return Err(Error::NotFinite { action: "merge", tensor });
        }
    }
    Ok(Weights { weight, bias })
}
