use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use train_ops::{AdaptedLinear, ForwardContext, FrozenLinear};

use crate::files::AdapterFiles;
use crate::layer::is_finite;
use crate::matching::{Decision, Targets};
use crate::update::{
    Added, Dora, LayerUpdate, LowRank, OnlyBias, OtherBase, Residual, TrainedLinear, Weights,
};
use crate::{Bias, Error, LoraConfig, Result};

/// The part of every name in files that stands for the two wrappers which PEFT puts around a model.
pub(crate) const PREFIX: &str = "base_model.model.";

/// The bias of an adapted layer, which PEFT wraps.
const ADAPTED_BIAS: &str = "base_layer.bias";

/// One adapter: its configuration and all of its weights.
#[derive(Debug)]
pub(crate) struct AdapterWeights {
    pub(crate) config: LoraConfig,
    /// By path.
    pub(crate) layers: BTreeMap<String, LayerAdapter>,
    /// Updates of embeddings and convolutions, by path.
    pub(crate) others: BTreeMap<String, Added>,
    /// Trained parameters outside the linear layers, by path.
    pub(crate) parameters: BTreeMap<String, Var>,
}

/// What an adapter does to one layer: an update, and perhaps a trained copy of the layer's bias.
#[derive(Debug)]
pub(crate) struct LayerAdapter {
    pub(crate) base: FrozenLinear,
    pub(crate) update: Box<dyn LayerUpdate>,
    bias: Option<Var>,
}

impl AdapterWeights {
    /// A new adapter of the linear layers `bases` and the embeddings and convolutions `others` of a model.
    pub(crate) fn new(
        config: &LoraConfig,
        targets: &Targets,
        bases: Vec<FrozenLinear>,
        others: BTreeMap<String, OtherBase>,
        parameters: BTreeMap<String, Var>,
        seed: u64,
    ) -> Result<Self> {
        // Each layer by itself, since PiSSA and OLoRA decompose its weight.
        let layers = bases.into_par_iter().filter_map(|base| {
            let path = base.path().to_owned();
            let layer = LayerAdapter::new(config, targets, base, seed).transpose()?;
            Some(layer.map(|layer| (path, layer)))
        });
        let layers = layers.collect::<Result<_>>()?;
        let mut added = BTreeMap::new();
        for (path, base) in others {
            if targets.adapts_other(&path)? {
                let update = Added::new(&path, base, targets.options(&path)?, config, seed)?;
                added.insert(path, update);
            }
        }
        Ok(Self { config: config.clone(), layers, others: added, parameters })
    }

    /// The trainable parameters by their names in files.
    pub(crate) fn variables(&self) -> BTreeMap<String, Var> {
        let of_layers = self.layers.iter().flat_map(|(path, layer)| {
            let variables = layer.parameters().into_iter();
            variables.map(move |(name, var)| (format!("{PREFIX}{path}.{name}"), var))
        });
        of_layers.chain(self.stored()).collect()
    }

    /// The parameters outside the linear layers, by their names in files.
    fn stored(&self) -> impl Iterator<Item = (String, Var)> {
        let of_others = self.others.iter().flat_map(|(path, update)| {
            update.parameters().map(|(name, var)| (format!("{PREFIX}{path}.{name}"), var))
        });
        let outside = self.parameters.iter();
        of_others.chain(outside.map(|(path, var)| (format!("{PREFIX}{path}"), var.clone())))
    }

    /// The tensors of the weight file.
    pub(crate) fn saved(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (path, layer) in &self.layers {
            for (name, tensor) in layer.saved()? {
                tensors.insert(format!("{PREFIX}{path}.{name}"), tensor);
            }
        }
        tensors.extend(self.stored().map(|(name, var)| (name, var.as_detached_tensor())));
        Ok(tensors)
    }

    /// Sets all parameters to the tensors of `files`.
    ///
    /// # Errors
    /// If names or shapes are not those of this adapter, or the files' configuration scales updates differently; then nothing
    /// has changed.
    pub(crate) fn restore(&self, files: &AdapterFiles) -> Result<()> {
        self.check_scales(files)?;
        let mut shapes = BTreeMap::new();
        for (path, layer) in &self.layers {
            for (name, shape) in layer.shapes_in(&files.config) {
                shapes.insert(format!("{PREFIX}{path}.{name}"), shape);
            }
        }
        shapes.extend(self.stored().map(|(name, var)| (name, var.dims().to_vec())));
        // PEFT also saves the frozen weight of an adapted `embed_tokens`.
        let frozen = self
            .others
            .iter()
            .map(|(path, update)| (format!("{PREFIX}{path}.base_layer.weight"), update.base.weight()));
        let frozen: Vec<_> = frozen.filter(|(name, _)| files.has(name)).collect();
        shapes.extend(frozen.iter().map(|(name, weight)| (name.clone(), weight.dims().to_vec())));
        let tensors = files.tensors_of(&shapes)?;
        for (name, weight) in frozen {
            files.check_same(&name, weight)?;
        }
        let tensor = |name: &str| tensors.get(name).cloned().ok_or_else(|| files.missing(name));
        for (path, layer) in &self.layers {
            let names = layer.shapes_in(&files.config).into_iter();
            let own = names.map(|(name, _)| tensor(&format!("{PREFIX}{path}.{name}")));
            layer.restore(own.collect::<Result<_>>()?)?;
        }
        for (name, var) in self.stored() {
            var.set(&tensor(&name)?.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// The parameters of the model that the adapter replaces, instead of adding to them.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = String> {
        let of_layers = self.layers.iter().flat_map(|(path, layer)| {
            let whole = layer.update.low_rank().is_none();
            let names = layer.parameters().into_iter().map(|(name, _)| name);
            let names = names.filter(move |name| whole || *name == ADAPTED_BIAS);
            names.map(move |name| format!("{path}.{}", name.trim_start_matches("base_layer.")))
        });
        of_layers.chain(self.parameters.keys().cloned())
    }

    /// # Errors
    /// [`Error::OutsideLayers`] if the adapter trains parameters that cannot be replaced.
    pub(crate) fn check_outside(&self, name: &str) -> Result<()> {
        match self.parameters.keys().next() {
            None => Ok(()),
            Some(parameter) => Err(Error::OutsideLayers {
                action: format!("the adapter {name} cannot be replaced"),
                parameter: parameter.clone(),
            }),
        }
    }

    fn check_scales(&self, files: &AdapterFiles) -> Result<()> {
        let targets = Targets::new(&files.config)?;
        let of_layers =
            self.layers.iter().filter_map(|(path, layer)| Some((path, layer.update.low_rank()?.scale())));
        let of_others = self.others.iter().map(|(path, update)| (path, update.options.scale));
        for (path, expected) in of_layers.chain(of_others) {
            let got = targets.options(path)?.scale;
            if (got / expected - 1.0).abs() > 1e-9 {
                let path_of_file = files.config_path.clone();
                return Err(Error::Scale { path: path_of_file, module: path.clone(), expected, got });
            }
        }
        Ok(())
    }
}

impl LayerAdapter {
    /// What a configuration does to the layer `base`; `None` if nothing.
    fn new(config: &LoraConfig, targets: &Targets, base: FrozenLinear, seed: u64) -> Result<Option<Self>> {
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

    /// The base as the update should see it, and the bias to add afterwards so that it gets a gradient.
    fn base_for(&self, ctx: &ForwardContext) -> train_ops::Result<(FrozenLinear, Option<&Var>)> {
        match &self.bias {
            None => Ok((self.base.clone(), None)),
            Some(bias) if ctx.is_training() => Ok((self.base.with_bias(None)?, Some(bias))),
            // A copy, since a snapshot does not change with the parameter.
            Some(bias) => Ok((self.base.with_bias(Some(bias.as_detached_tensor().copy()?))?, None)),
        }
    }

    /// The layer with this adapter after those that gave `before`.
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

    /// Merges this adapter into the weights that others before it left.
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

    fn bias_name(&self) -> &'static str {
        if self.update.low_rank().is_some() { ADAPTED_BIAS } else { "bias" }
    }

    pub(crate) fn parameters(&self) -> Vec<(&'static str, Var)> {
        let mut parameters = self.update.parameters();
        parameters.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.clone())));
        parameters
    }

    fn saved(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let mut saved = self.update.saved()?;
        saved.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.as_detached_tensor())));
        Ok(saved)
    }

    fn shapes_in(&self, files: &LoraConfig) -> Vec<(&'static str, Vec<usize>)> {
        let names = self.update.parameters().into_iter().map(|(name, _)| name);
        let mut shapes: Vec<_> = names.zip(self.update.shapes_in(files)).collect();
        shapes.extend(self.bias.iter().map(|bias| (self.bias_name(), bias.dims().to_vec())));
        shapes
    }

    fn restore(&self, mut tensors: Vec<Tensor>) -> Result<()> {
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
