use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Error, Result, wire};

/// The options of an adapter, with the names, meanings and defaults of PEFT's `LoraConfig`.
///
/// Serde reads and writes the contents of `adapter_config.json`. PEFT's other options are accepted if they
/// are null, false or their default, or if they belong to an option that is not set (`corda_config` without
/// `corda`). Otherwise they are an error that names them: an adapter trained with, say, `use_dora` would give
/// wrong results as plain LoRA. `inference_mode` is accepted and ignored, since each
/// [`ForwardContext`](train_ops::ForwardContext) says whether it trains.
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
/// let error = serde_json::from_str::<LoraConfig>(r#"{"r": 4, "use_dora": true}"#).unwrap_err();
/// assert_eq!(error.to_string(), "not supported: use_dora = true");
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
    /// adapted, but those that `target_modules` names by their full path are. Needs `target_modules` to be a
    /// list. Default empty, which means all layers.
    #[serde(with = "wire::one_or_many")]
    pub layers_to_transform: Vec<usize>,
    /// Names of the module lists whose indices `layers_to_transform` means (`encoder` in the path above),
    /// each a regular expression. Default empty, which means the first number in a path with at least two
    /// names before it. So a list at the model's root, as in `blocks.3.query`, has to be named here.
    #[serde(with = "wire::one_or_many")]
    pub layers_pattern: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` instead (rsLoRA, Kalajdzievski, 2023, <https://arxiv.org/abs/2312.03732>).
    /// Default false.
    pub use_rslora: bool,
    /// How to initialise `A` and `B`. Default [`InitLoraWeights::Default`].
    pub init_lora_weights: InitLoraWeights,
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

/// Selects modules by name or by regular expression.
///
/// ```
/// # use peft_lora::Modules;
/// let names: Modules = ["query", "encoder.layer.0.dense"].into();
/// let regex: Modules = r".*\.layer\.[0-3]\..*(query|value)".into();
/// let all: Modules = "all-linear".into();
/// # assert_ne!(regex, all);
/// # assert_ne!(names, all);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "modules must be a list of names or one regular expression")]
pub enum Modules {
    /// Each name selects the module with that path, and the modules whose path ends in a dot and the name.
    Names(Vec<String>),
    /// A regular expression (Python's syntax, with look-around) that matches the whole path. In
    /// `target_modules`, the string `all-linear` selects every linear layer except the
    /// [`output_layer`](crate::LoraBuilder::output_layer).
    Regex(String),
}

impl Default for Modules {
    /// No module.
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl Modules {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Regex(regex) => regex.is_empty(),
        }
    }
}

impl<const N: usize> From<[&str; N]> for Modules {
    fn from(names: [&str; N]) -> Self {
        names.as_slice().into()
    }
}

impl From<&[&str]> for Modules {
    fn from(names: &[&str]) -> Self {
        Self::Names(names.iter().map(ToString::to_string).collect())
    }
}

impl From<Vec<String>> for Modules {
    fn from(names: Vec<String>) -> Self {
        Self::Names(names)
    }
}

impl From<&str> for Modules {
    fn from(regex: &str) -> Self {
        Self::Regex(regex.to_owned())
    }
}

/// How to initialise `A` and `B`: `true`, `false` or `"gaussian"` in JSON. Files may also name `"eva"`,
/// `"orthogonal"` or `"mica"`, which change only the initial `A` and `B`; they are read as
/// [`Default`](Self::Default). Methods that change the base's weights too are an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// `A` uniform in `±1 / sqrt(in_features)` (Kaiming with `a = sqrt(5)`) and `B` zero, so that training
    /// starts at the base model.
    #[default]
    Default,
    /// `A` normal with standard deviation `1 / r` and `B` zero.
    Gaussian,
    /// `A` as by default and `B` uniform in `±1 / sqrt(r)`. This is not the base model; use it in tests.
    Random,
}

impl Serialize for InitLoraWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            Self::Gaussian => serializer.serialize_str("gaussian"),
        }
    }
}

impl<'de> Deserialize<'de> for InitLoraWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = match &value {
            Value::Bool(true) => return Ok(Self::Default),
            Value::Bool(false) => return Ok(Self::Random),
            Value::String(name) => name.to_ascii_lowercase(),
            _ => String::new(),
        };
        if name == "gaussian" {
            return Ok(Self::Gaussian);
        }
        if FIRST_VALUES.contains(&name.as_str()) {
            return Ok(Self::Default);
        }
        let changes_base = CHANGED_BASE.iter().any(|kind| name.starts_with(kind));
        Err(D::Error::custom(if changes_base {
            format!(
                "not supported: init_lora_weights = {value}, which also changed the weights of the base, so that the adapter does \
                 not fit the base as it is; convert it with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
            )
        } else {
            format!("not supported: init_lora_weights = {value}; it can be true, false or \"gaussian\"")
        }))
    }
}

/// Values of `init_lora_weights` that change only the initial `A` and `B`.
const FIRST_VALUES: [&str; 3] = ["eva", "orthogonal", "mica"];

/// Prefixes of the values that change the base's weights.
const CHANGED_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

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
        Document { config: self.clone(), others: wire::fixed_options() }.serialize(serializer)
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
