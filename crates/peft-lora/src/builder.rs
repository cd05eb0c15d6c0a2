use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};
use train_ops::{Adaptation, Convolution, FrozenLinear, LayerBuilder, LinearLayer};

use crate::audit::{check_entries, check_layers};
use crate::files::AdapterFiles;
use crate::inventory::Inventory;
use crate::matching::{Selector, Targets};
use crate::set::AdapterSet;
use crate::update::OtherBase;
use crate::weights::AdapterWeights;
use crate::{Adapter, Adapters, Error, LoraConfig, Modules, Result};

/// The name of the adapter that a model is built with.
pub(crate) const DEFAULT_ADAPTER: &str = "default";

/// Builds a model's layers frozen, and adds an adapter to those that the configuration targets.
///
/// Pass it to the constructor of the model, then call [`finish`](Self::finish): see the [crate's
/// example](crate).
#[derive(Debug)]
pub struct LoraBuilder {
    config: LoraConfig,
    targets: Targets,
    seed: u64,
    files: Option<AdapterFiles>,
    model: Inventory,
    base: BaseType,
    /// All linear layers, because the caller may have dropped them.
    bases: Vec<FrozenLinear>,
    others: BTreeMap<String, OtherBase>,
    parameters: BTreeMap<String, Var>,
    set: Arc<AdapterSet>,
}

impl LoraBuilder {
    /// A builder of a new adapter.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if an option's value is invalid, or contradicts another.
    pub fn new(config: LoraConfig) -> Result<Self> {
        Ok(Self {
            targets: Targets::new(&config)?,
            config,
            seed: 0,
            files: None,
            model: Inventory::default(),
            base: BaseType::Stored,
            bases: Vec::new(),
            others: BTreeMap::new(),
            parameters: BTreeMap::new(),
            set: Arc::default(),
        })
    }

    /// A builder of an adapter saved in the folder `dir`, by [`Adapter::save`] or by PEFT. The configuration
    /// and the weights are read at once, so that a bad file is found before a model is built;
    /// [`finish`](Self::finish) sets the weights.
    ///
    /// # Errors
    /// If a file is missing or damaged, or its configuration has an option that this crate does not support.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let files = AdapterFiles::read(dir.as_ref())?;
        Ok(Self { files: Some(files.clone()), ..Self::new(files.config)? })
    }

    /// Sets the path of the layer that computes the logits from the last hidden state. `all-linear` leaves it
    /// out, as PEFT does for transformers' models. By default no layer is left out.
    pub fn output_layer(mut self, path: &str) -> Self {
        self.targets.output_layer = Some(path.to_owned());
        self
    }

    /// Sets the seed of a new adapter's initial weights. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets how the frozen weights are stored. Default [`BaseType::Stored`].
    pub fn base(mut self, base: BaseType) -> Self {
        self.base = base;
        self
    }

    /// Lets adapters act on an embedding or a convolution, unless it is trained as a whole.
    fn adapt(&mut self, path: &str, base: OtherBase) -> Option<Arc<dyn Adaptation>> {
        if base.weight().track_op() {
            return None;
        }
        self.model.add_adaptable(path);
        self.others.insert(path.to_owned(), base.clone());
        Some(self.set.add_other(path, base))
    }

    /// Returns the adapter, after the model was built. It is called `default` and is active.
    ///
    /// # Errors
    /// - [`Error::Unmatched`] if an entry of the configuration selects nothing; lists all of them. A
    ///   configuration from files is exempt, since the weights determine the layers.
    /// - [`Error::NotLinear`] if the targets select modules that are not linear layers.
    /// - [`Error::NothingSelected`] if no layer is left to adapt.
    /// - [`Error::Tensors`] and others if the weights of [`from_pretrained`](Self::from_pretrained) do not
    ///   fit.
    pub fn finish(self) -> Result<Adapter> {
        check_layers(&self.targets, &self.model)?;
        let mut config = self.config;
        let mut weights =
            AdapterWeights::new(&config, &self.targets, self.bases, self.others, self.parameters, self.seed)?;
        let adapted = weights.layers.iter().filter(|(_, layer)| layer.update.low_rank().is_some());
        let adapted = adapted.map(|(path, _)| path).chain(weights.others.keys());
        let adapted: BTreeSet<&str> = adapted.map(String::as_str).collect();
        if self.files.is_none() {
            check_entries(&self.targets, &self.model, &adapted)?;
        }
        if matches!(self.targets.targets, Selector::AllLinear) {
            // The meaning of "all" depends on the model, so a saved file has to name the layers, as PEFT's
            // does.
            config.target_modules = Modules::Names(adapted.into_iter().map(str::to_owned).collect());
        }
        weights.config = config;
        if let Some(files) = self.files {
            weights.restore(&files)?;
        }
        if weights.layers.is_empty() && weights.others.is_empty() {
            return Err(Error::NothingSelected);
        }
        let adapters = Adapters::new(self.set, self.model.elements());
        let adapter = adapters.insert(DEFAULT_ADAPTER, weights)?;
        adapters.activate([DEFAULT_ADAPTER])?;
        Ok(adapter)
    }
}

/// How a [`LoraBuilder`] stores the frozen weights of linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseType {
    /// In the type of the tensor from the model's constructor: f32, bf16 or another type that candle can
    /// multiply.
    #[default]
    Stored,
    /// In 16 bits.
    Bf16,
    /// In 8 bits, with a scale for each output, and multiplied in f32 ([`FrozenLinear::to_int8`]). Needs the CPU.
    Int8,
    /// In 8 bits and multiplied as integers, forward and backward ([`FrozenLinear::to_int8_products`]): faster
    /// than f32, but activations and gradients are rounded to 8 bits too. Needs the CPU.
    Int8Products,
}

impl BaseType {
    /// The frozen layer at `path`.
    fn layer(self, path: &str, weight: Tensor, bias: Option<Tensor>) -> train_ops::Result<FrozenLinear> {
        match self {
            Self::Stored => FrozenLinear::new(path, weight, bias),
            Self::Bf16 => FrozenLinear::new(path, weight.to_dtype(DType::BF16)?, bias),
            Self::Int8 => FrozenLinear::quantised(path, weight, bias),
            Self::Int8Products => FrozenLinear::new(path, weight, bias)?.to_int8_products(),
        }
    }
}

impl LayerBuilder for LoraBuilder {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        let refused =
            |error: Error| train_ops::Error::Build { path: path.to_owned(), source: Box::new(error) };
        self.model.add_linear(path, &weight, bias.as_ref())?;
        // A pattern that cannot be matched is an error of this layer.
        self.targets.decide(path).map_err(refused)?;
        let base = self.base.layer(path, weight, bias)?;
        self.bases.push(base.clone());
        Ok(self.set.add_layer(base))
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        self.model.add_parameter(path, &value)?;
        self.set.add_parameter(path);
        if self.targets.trains_parameter(path) {
            let variable = Var::from_tensor(&value)?;
            let tensor = variable.as_tensor().clone();
            self.parameters.insert(path.to_owned(), variable);
            return Ok(tensor);
        }
        // Detached: a value that tracks gradients, such as a variable of a `VarMap`, would be trained.
        Ok(value.detach())
    }

    fn adapt_embedding(
        &mut self,
        path: &str,
        weight: &Tensor,
    ) -> train_ops::Result<Option<Arc<dyn Adaptation>>> {
        Ok(self.adapt(path, OtherBase::Embedding(weight.clone())))
    }

    fn adapt_conv2d(
        &mut self,
        path: &str,
        weight: &Tensor,
        convolution: Convolution,
    ) -> train_ops::Result<Option<Arc<dyn Adaptation>>> {
        Ok(self.adapt(path, OtherBase::Conv2d(weight.clone(), convolution)))
    }
}
