use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Var;

use crate::files::{self, AdapterFiles, tensor_name};
use crate::layer::{Disabled, Switch};
use crate::matching::Targets;
use crate::{Error, InjectionReport, LoraConfig, LoraLinear, Result};

/// All adapted layers of a model, as one handle.
///
/// Clones refer to the same layers.
#[derive(Clone, Debug)]
pub struct Adapter {
    config: LoraConfig,
    pub(crate) layers: BTreeMap<String, Arc<LoraLinear>>,
    report: InjectionReport,
    switch: Switch,
}

impl Adapter {
    pub(crate) fn new(
        config: LoraConfig,
        layers: BTreeMap<String, Arc<LoraLinear>>,
        report: InjectionReport,
        switch: Switch,
    ) -> Self {
        Self { config, layers, report, switch }
    }

    /// The configuration that [`save`](Self::save) writes: `all-linear` is replaced by the list of layers.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The adapted layers and the numbers of parameters.
    pub fn report(&self) -> &InjectionReport {
        &self.report
    }

    /// The adapted layers, sorted by path.
    pub fn layers(&self) -> impl Iterator<Item = &LoraLinear> {
        self.layers.values().map(AsRef::as_ref)
    }

    /// The trainable parameters by their names in the weight file, `base_model.model.PATH.lora_A.weight` and
    /// `….lora_B.weight`.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        self.layers
            .iter()
            .flat_map(|(path, layer)| {
                [(tensor_name(path, 'A'), layer.a().clone()), (tensor_name(path, 'B'), layer.b().clone())]
            })
            .collect()
    }

    /// Disables the adapter until the guard is dropped. The model is then exactly the base model, merged or
    /// not. With several guards, the adapter stays disabled until the last one is dropped.
    ///
    /// ```no_run
    /// # fn evaluate() {}
    /// # fn compare(adapter: &peft_lora::Adapter) {
    /// {
    ///     let _base = adapter.disable();
    ///     evaluate();
    /// }
    /// evaluate(); // with the adapter
    /// # }
    /// ```
    pub fn disable(&self) -> Disabled {
        self.switch.turn_off()
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` to the folder `dir`, and creates it if
    /// necessary. To open them, use `PeftModel.from_pretrained` in Python, and
    /// [`LoraBuilder::from_pretrained`] here.
    ///
    /// [`LoraBuilder::from_pretrained`]: crate::LoraBuilder::from_pretrained
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a parameter holds NaN or an infinity, before anything is written, and
    /// [`Error::Write`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        files::write(dir.as_ref(), &self.config, &self.parameters())
    }

    /// Replaces the weights by those in the folder `dir`, which must hold an adapter with the same layers,
    /// ranks and scales. On an error nothing is replaced.
    ///
    /// # Errors
    /// - [`Error::Tensors`] if tensors are missing, unexpected or of another shape; lists all of them.
    /// - [`Error::Scale`] if the files' configuration would scale the update differently.
    /// - [`Error::Merged`] while merged.
    pub fn load_weights(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.set_weights(AdapterFiles::read(dir.as_ref())?)
    }

    pub(crate) fn set_weights(&self, files: AdapterFiles) -> Result<()> {
        self.check_unmerged("load weights")?;
        let targets = Targets::new(&files.config)?;
        for (path, layer) in &self.layers {
            let got = targets.options(path)?.scale;
            if (got / layer.scale() - 1.0).abs() > 1e-9 {
                return Err(Error::Scale {
                    path: files.config_path,
                    module: path.clone(),
                    expected: layer.scale(),
                    got,
                });
            }
        }
        for (parameter, tensor) in files.tensors_for(&self.parameters())? {
            parameter.set(&tensor.to_device(parameter.device())?)?;
        }
        Ok(())
    }

    fn check_unmerged(&self, action: &'static str) -> Result<()> {
        match self.layers().find(|layer| layer.merged().is_some()) {
            None => Ok(()),
            Some(layer) => Err(Error::Merged { action, path: layer.path().to_owned() }),
        }
    }
}
