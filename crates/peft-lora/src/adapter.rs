use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Tensor, Var};
use train_ops::FrozenLinear;

use crate::files::{self, AdapterFiles};
use crate::layer_adapter::LayerAdapter;
use crate::set::AdapterSet;
use crate::state::Disabled;
use crate::weights::AdapterWeights;
use crate::{Adapters, InjectionReport, LoraConfig, Result};

/// A handle on one adapter of a model, with all of its weights.
///
/// Clones refer to the same weights. [`Adapters`] has all adapters of the model, if there are several.
#[derive(Clone, Debug)]
pub struct Adapter {
    name: String,
    pub(crate) weights: Arc<AdapterWeights>,
    pub(crate) set: Arc<AdapterSet>,
    report: InjectionReport,
}

impl Adapter {
    pub(crate) fn new(
        name: &str,
        weights: Arc<AdapterWeights>,
        set: Arc<AdapterSet>,
        base_parameters: usize,
    ) -> Self {
        let report = InjectionReport::new(&weights, base_parameters);
        Self { name: name.to_owned(), weights, set, report }
    }

    /// Its name among the adapters of the model; `default` for the one that the model was built with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All adapters of the model.
    pub fn adapters(&self) -> Adapters {
        Adapters::new(self.set.clone(), self.report.base_parameters())
    }

    /// The configuration: `all-linear` is replaced by the list of layers.
    pub fn config(&self) -> &LoraConfig {
        &self.weights.config
    }

    /// The adapted layers and the numbers of parameters.
    pub fn report(&self) -> &InjectionReport {
        &self.report
    }

    /// The linear layers with a low-rank update, sorted by path.
    pub fn layers(&self) -> impl Iterator<Item = AdaptedLayer<'_>> {
        let layers = self.weights.layers.values();
        layers.filter_map(AdaptedLayer::new)
    }

    /// The trainable parameters by their names in the weight file: `base_model.model.PATH.lora_A.weight`,
    /// `….lora_B.weight`, and those of the options `use_dora`, `lora_bias`, `bias` and `modules_to_save`.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        self.weights.variables()
    }

    /// Disables all adapters of the model until the guard is dropped. The linear layers are then exactly those of the
    /// base model, merged or not. With several guards, the adapters stay disabled until the last one is dropped.
    ///
    /// Parameters outside linear layers that `modules_to_save` or `bias` train keep their trained values.
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
        self.set.state.disable()
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` to the folder `dir`, and creates it if
    /// necessary. To open them, use `PeftModel.from_pretrained` in Python, and
    /// [`LoraBuilder::from_pretrained`] here.
    ///
    /// An adapter with the initialisation PiSSA or OLoRA becomes a plain LoRA of twice the rank, which fits the
    /// original base.
    ///
    /// [`LoraBuilder::from_pretrained`]: crate::LoraBuilder::from_pretrained
    ///
    /// # Errors
    /// [`NotFinite`](crate::Error::NotFinite) if a parameter holds NaN or an infinity, before anything is written, and
    /// [`Write`](crate::Error::Write).
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        files::write(dir.as_ref(), &self.config().for_files(), &self.weights.saved()?)
    }

    /// Replaces the weights by those in the folder `dir`, which must hold an adapter with the same layers,
    /// ranks and scales. On an error nothing is replaced. The [`parameters`](Self::parameters) stay the same variables.
    ///
    /// A pass that runs meanwhile on another thread may use old weights in some layers and new ones in others;
    /// [`Adapters::hot_swap`] prevents that.
    ///
    /// # Errors
    /// - [`Tensors`](crate::Error::Tensors) if tensors are missing, unexpected or of another shape; lists all of them.
    /// - [`Scale`](crate::Error::Scale) if the files' configuration would scale the update differently.
    /// - [`Merged`](crate::Error::Merged) while adapters are merged.
    pub fn load_weights(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.set.state.current.get().check_unmerged("load weights")?;
        self.weights.restore(&AdapterFiles::read(dir.as_ref())?)?;
        // Some kinds of adapters have their weights in other memory now. A new version of the state says so to what refers to the old
        // memory (`ForwardContext::has_values_of`).
        self.set.state.current.update(|state| Ok(state.clone()))
    }

    /// The merged weights by their names in the base's checkpoint: `PATH.weight` of each adapted layer, and all
    /// other parameters that the adapter changes. Each is computed when the iterator reaches it. Together with
    /// the checkpoint's other tensors they are a model without an adapter.
    pub fn merged_weights(&self) -> impl Iterator<Item = Result<(String, Tensor)>> {
        let of_layers = self.weights.layers.values().flat_map(|layer| match layer.changed() {
            Ok(tensors) => tensors.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let of_others = self.weights.others.iter();
        let of_others =
            of_others.map(|(path, update)| Ok((format!("{path}.weight"), update.merged_weight()?)));
        let others = self.weights.parameters.iter();
        of_layers
            .chain(of_others)
            .chain(others.map(|(path, var)| Ok((path.clone(), var.as_detached_tensor()))))
    }
}

/// A linear layer with a low-rank update `s B A`, a part of an [`Adapter`].
///
/// Only the update is trained. It is f32, whatever the type of the base's weight.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedLayer<'a> {
    layer: &'a LayerAdapter,
    low_rank: &'a crate::update::LowRank,
}

impl<'a> AdaptedLayer<'a> {
    fn new(layer: &'a LayerAdapter) -> Option<Self> {
        Some(Self { layer, low_rank: layer.update.low_rank()? })
    }

    /// Dotted checkpoint path of the layer.
    pub fn path(&self) -> &'a str {
        self.layer.base.path()
    }

    /// The rank `r`.
    pub fn rank(&self) -> usize {
        self.low_rank.options.rank
    }

    /// The numerator of the scale.
    pub fn alpha(&self) -> f64 {
        self.low_rank.options.alpha
    }

    /// The scale of the update: `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub fn scale(&self) -> f64 {
        self.low_rank.scale()
    }

    /// `A`, of shape `(r, in_features)`.
    pub fn a(&self) -> &'a Var {
        &self.low_rank.a
    }

    /// `B`, of shape `(out_features, r)`.
    pub fn b(&self) -> &'a Var {
        &self.low_rank.b
    }

    /// The layer without adapters. It never changes.
    pub fn base(&self) -> &'a FrozenLinear {
        &self.layer.base
    }

    /// `ΔW`, the change of the weight, of shape `(out_features, in_features)`, f32, without gradients: `s B A` for LoRA.
    pub fn delta_weight(&self) -> Result<Tensor> {
        self.layer.delta_weight()
    }

    /// `W + ΔW`, of shape `(out_features, in_features)`, summed in f32 and rounded to the type of `W`.
    ///
    /// # Errors
    /// [`NotFinite`](crate::Error::NotFinite) if the rounded sum is not finite.
    pub fn merged_weight(&self) -> Result<Tensor> {
        Ok(self.layer.merged()?.weight)
    }
}
