use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;
use train_ops::FrozenLinear;

use crate::files::AdapterFiles;
use crate::layer_adapter::{ADAPTED_BIAS, LayerAdapter};
use crate::matching::Targets;
use crate::update::{Added, OtherBase};
use crate::{Error, LoraConfig, Result};

/// The prefix of every name in files: the names of the two wrappers that PEFT puts around a model.
pub(crate) const PREFIX: &str = "base_model.model.";

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
        // In parallel over layers, since PiSSA and OLoRA decompose each layer's weight.
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
