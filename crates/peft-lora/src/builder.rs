use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{FrozenLinear, LayerBuilder, LinearLayer};

use crate::audit::{check_entries, check_layers};
use crate::files::AdapterFiles;
use crate::inventory::Inventory;
use crate::layer::Switch;
use crate::matching::{Decision, Selector, Targets};
use crate::{Adapter, Error, InjectionReport, LoraConfig, LoraLinear, Modules, Result};

/// Builds a model's layers frozen, and adds an adapter ([`LoraLinear`]) to those that the configuration
/// targets.
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
    layers: BTreeMap<String, Arc<LoraLinear>>,
    switch: Switch,
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
            layers: BTreeMap::new(),
            switch: Switch::default(),
        })
    }

    /// A builder of an adapter saved in the folder `dir`, by [`Adapter::save`] or by PEFT. The configuration
    /// and the weights are read at once, so that a bad file is found before a model is built;
    /// [`finish`](Self::finish) sets the weights.
    ///
    /// # Errors
    /// If a file is missing or damaged, or its configuration asks for something that this crate does not
    /// support.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let files = AdapterFiles::read(dir.as_ref())?;
        Ok(Self { files: Some(files.clone()), ..Self::new(files.config)? })
    }

    /// Names the layer that computes the logits from the last hidden state. `all-linear` leaves it out, as
    /// PEFT does for transformers' models. By default no layer is left out.
    pub fn output_layer(mut self, path: &str) -> Self {
        self.targets.output_layer = Some(path.to_owned());
        self
    }

    /// The seed of a new adapter's initial weights. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns the adapter, after the model was built.
    ///
    /// # Errors
    /// - [`Error::Unmatched`] if an entry of the configuration selects nothing; lists all of them. A
    ///   configuration from files is exempt, since the weights say which layers there are.
    /// - [`Error::NotLinear`] if the targets select modules that are not linear layers.
    /// - [`Error::NothingSelected`] if no layer is left to adapt.
    /// - [`Error::Tensors`] and others if the weights of [`from_pretrained`](Self::from_pretrained) do not
    ///   fit.
    pub fn finish(self) -> Result<Adapter> {
        let adapted: BTreeSet<&str> = self.layers.keys().map(String::as_str).collect();
        check_layers(&self.targets, &self.model)?;
        if self.files.is_none() {
            check_entries(&self.targets, &self.model, &adapted)?;
        }
        let mut config = self.config;
        if matches!(self.targets.targets, Selector::AllLinear) {
            // The meaning of "all" depends on the model, so a saved file has to name the layers, as PEFT's
            // does.
            config.target_modules = Modules::Names(self.layers.keys().cloned().collect());
        }
        let report = InjectionReport::new(self.layers.values(), self.model.elements());
        let adapter = Adapter::new(config, self.layers, report, self.switch);
        if let Some(files) = self.files {
            adapter.set_weights(files)?;
        }
        if adapter.layers.is_empty() {
            return Err(Error::NothingSelected);
        }
        Ok(adapter)
    }

    fn is_adapted(&self, path: &str) -> Result<bool> {
        Ok(self.targets.decide(path)? == Decision::Adapted)
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
        let base = FrozenLinear::new(path, weight, bias)?;
        if !self.is_adapted(path).map_err(refused)? {
            return Ok(Arc::new(base));
        }
        let options = self.targets.options(path).map_err(refused)?;
        let layer = Arc::new(LoraLinear::new(base, options, &self.config, self.seed, self.switch.clone())?);
        self.layers.insert(path.to_owned(), layer.clone());
        Ok(layer)
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        self.model.add_parameter(path, &value)?;
        // A value that tracks gradients, such as a variable of a `VarMap`, would be trained.
        Ok(value.detach())
    }
}
