use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Bias, Error, InitLoraWeights, Modules, Result, wire};

/// The options of an adapter, with the names, meanings and defaults of PEFT's `LoraConfig`.
///
/// Serde reads and writes the contents of `adapter_config.json`. PEFT's other options are accepted if they are
/// null, false or their default, or if they belong to an option that is not set (`corda_config` without
/// `corda`). Otherwise they are an error that names them: an adapter trained with, say, `use_qalora` would give
/// wrong results as plain LoRA. `inference_mode` is accepted and ignored, since each
/// [`ForwardContext`](train_ops::ForwardContext) has its own mode.
///
/// ```
/// use peft_lora::LoraConfig;
///
/// let config = LoraConfig {
///     r: 16,
///     lora_alpha: 32.0,
///     lora_dropout: 0.05,
///     target_modules: ["query", "key", "value", "dense"].into(),
///     ..LoraConfig::default()
/// };
/// let json = serde_json::to_string(&config)?;
/// assert_eq!(serde_json::from_str::<LoraConfig>(&json)?, config);
///
/// let error = serde_json::from_str::<LoraConfig>(r#"{"r": 4, "use_qalora": true}"#).unwrap_err();
/// assert_eq!(error.to_string(), "not supported: use_qalora = true");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default)]
pub struct LoraConfig {
    /// Rank of the update: `A` is `(r, in_features)` and `B` is `(out_features, r)`. Default 8.
    pub r: usize,
    /// Numerator of the update's scale, `lora_alpha / r`. Default 8.
    #[serde(serialize_with = "wire::serialize_number")]
    pub lora_alpha: f64,
    /// Dropout probability in `[0, 1)` for the input of `A` in training. Default 0.
    pub lora_dropout: f64,
    /// The linear layers to adapt. Default none, which [`LoraBuilder`](crate::LoraBuilder) refuses.
    #[serde(deserialize_with = "wire::null_as_default")]
    pub target_modules: Modules,
    /// Layers that are not adapted even if `target_modules` selects them. Default none.
    pub exclude_modules: Option<Modules>,
    /// Other ranks for some layers, by regular expression on the end of a layer's path: `layers.0.query` or
    /// `.*attention.*`. The first match counts. Default none.
    #[serde(with = "wire::ordered_map")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Other values of `lora_alpha` for some layers, matched like `rank_pattern`. Default none.
    #[serde(with = "wire::ordered_map")]
    pub alpha_pattern: Vec<(String, f64)>,
    /// The layer numbers to adapt; the number of `bert.encoder.3.query` is 3. Layers without a number are not
    /// adapted, except those that `target_modules` names by their full path. Needs `target_modules` to be a
    /// list. Default empty, which means all layers.
    #[serde(with = "wire::one_or_many")]
    pub layers_to_transform: Vec<usize>,
    /// Regular expressions for the names of the module lists that `layers_to_transform` counts (`encoder` in
    /// the path above). Default empty: the layer number is then the first number in a path with at least two
    /// names before it. So a list at the model's root, as in `blocks.3.query`, has to be named here.
    #[serde(with = "wire::one_or_many")]
    pub layers_pattern: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` instead (rsLoRA, Kalajdzievski, 2023, <https://arxiv.org/abs/2312.03732>).
    /// Default false.
    pub use_rslora: bool,
    /// How to initialise `A` and `B`. Default [`InitLoraWeights::Default`].
    pub init_lora_weights: InitLoraWeights,
    /// Weight-decomposed adaptation (DoRA, Liu et al., 2024, <https://arxiv.org/abs/2402.09353>): also trains the
    /// norm of each row of the weight. Default false.
    #[serde(skip_serializing)]
    pub use_dora: bool,
    /// A trainable bias after `B`. Default false.
    #[serde(skip_serializing)]
    pub lora_bias: bool,
    /// Biases of the base model that are trained too. Default [`Bias::None`].
    #[serde(skip_serializing)]
    pub bias: Bias,
    /// Modules that are trained as a whole and saved with the adapter: each name selects the modules whose path
    /// ends with it, and everything inside them. Default none.
    #[serde(skip_serializing, deserialize_with = "wire::one_or_many::deserialize")]
    pub modules_to_save: Vec<String>,
    /// PEFT's name for the model's task, which decides its wrapper class in Python: `CAUSAL_LM`,
    /// `SEQ_2_SEQ_LM`, `FEATURE_EXTRACTION`. Default none.
    pub task_type: Option<String>,
    /// The origin of the base model: a hub name or a path. Default none.
    pub base_model_name_or_path: Option<String>,
    /// Revision of the base model on the hub. Default none.
    pub revision: Option<String>,
    /// The base model's Python class, as PEFT records it; kept when files are written. Default none.
    pub auto_mapping: Option<Value>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Modules::default(),
            exclude_modules: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            use_rslora: false,
            init_lora_weights: InitLoraWeights::Default,
            use_dora: false,
            lora_bias: false,
            bias: Bias::None,
            modules_to_save: Vec::new(),
            task_type: None,
            base_model_name_or_path: None,
            revision: None,
            auto_mapping: None,
        }
    }
}

impl LoraConfig {
    /// Checks everything that can be checked without a model.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse =
            |option, problem: &str| Err(Error::InvalidOption { option, problem: problem.to_owned() });
        if self.r == 0 {
            return refuse("r", "a rank must be at least 1, got 0");
        }
        if let Some((pattern, _)) = self.rank_pattern.iter().find(|(_, rank)| *rank == 0) {
            return refuse("rank_pattern", &format!("{pattern}: a rank must be at least 1, got 0"));
        }
        let no_alpha = |alpha: f64| !alpha.is_finite() || alpha == 0.0;
        if no_alpha(self.lora_alpha) {
            let problem = "must be a number other than 0, or the adapter has no effect";
            return refuse("lora_alpha", &format!("{problem}; got {}", self.lora_alpha));
        }
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|(_, alpha)| no_alpha(*alpha)) {
            let problem = "must be a number other than 0, or the layers' adapters have no effect";
            return refuse("alpha_pattern", &format!("{pattern}: {problem}; got {alpha}"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return refuse("lora_dropout", &format!("must be in [0, 1), got {}", self.lora_dropout));
        }
        if self.target_modules.is_empty() {
            return refuse(
                "target_modules",
                "is empty; list names of linear layers, or give a regular expression or \"all-linear\"",
            );
        }
        let selections = [
            ("target_modules", Some(&self.target_modules)),
            ("exclude_modules", self.exclude_modules.as_ref()),
        ];
        for (option, modules) in selections {
            if let Some(Modules::Names(names)) = modules
                && names.iter().any(String::is_empty)
            {
                return refuse(option, "holds an empty name");
            }
        }
        if self.layers_to_transform.is_empty() && !self.layers_pattern.is_empty() {
            return refuse("layers_pattern", "does nothing without layers_to_transform");
        }
        if matches!(self.target_modules, Modules::Regex(_)) && !self.layers_to_transform.is_empty() {
            return refuse(
                "layers_to_transform",
                "needs target_modules to be a list of names; a regular expression can select layers itself",
            );
        }
        self.validate_variants()?;
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM" | "SEQ_2_SEQ_LM" | "FEATURE_EXTRACTION") => Ok(()),
            Some(other) => refuse(
                "task_type",
                &format!(
                    "{other} is not supported: use null, CAUSAL_LM, SEQ_2_SEQ_LM or FEATURE_EXTRACTION \
                     (for the others PEFT also trains a head)"
                ),
            ),
        }
    }
}

/// The object in `adapter_config.json`: the options of this crate, and all others.
#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten, with = "LoraConfig")]
    config: LoraConfig,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl Serialize for LoraConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut others = wire::fixed_options();
        others.insert("bias".to_owned(), serde_json::json!(self.bias));
        others.insert("use_dora".to_owned(), self.use_dora.into());
        let modules = Some(&self.modules_to_save).filter(|modules| !modules.is_empty());
        others.insert("modules_to_save".to_owned(), serde_json::json!(modules));
        // Left out if it is false, as in files of older versions of PEFT.
        if self.lora_bias {
            others.insert("lora_bias".to_owned(), Value::Bool(true));
        }
        Document { config: self.clone(), others }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LoraConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Document { mut config, others } = Document::deserialize(deserializer)?;
        // An empty string is PEFT's other way to set no pattern.
        config.layers_pattern.retain(|pattern| !pattern.is_empty());
        wire::refuse_unsupported(&others).map_err(D::Error::custom)?;
        Ok(config)
    }
}
