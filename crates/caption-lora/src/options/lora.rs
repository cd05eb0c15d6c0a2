use std::{fmt, path::PathBuf, str::FromStr};

use peft_lora::{Bias, InitLoraWeights};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::names::names;

/// Which parameters are trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoraOptions {
    /// Which part of the model is trained. Default: the text decoder.
    pub tune: Tune,
    /// Rank of the adapters. Default: 16, or that of the initial adapter.
    pub lora_r: Option<usize>,
    /// The adapters' output is scaled by alpha / rank. Default: 32, or that of the initial adapter.
    pub lora_alpha: Option<f64>,
    /// Dropout of the adapters' inputs, in training. Default: 0.05, or that of the initial adapter.
    pub lora_dropout: Option<f64>,
    /// The linear layers that get an adapter. Default: those of the architecture (GIT: query, key, value and dense in the text
    /// decoder), or those of the initial adapter.
    pub target_modules: Option<TargetModules>,
    /// How new adapters are initialised. Default: `A` random and `B` zero, which gives the base model's
    /// outputs.
    pub init_lora_weights: Option<InitLoraWeights>,
    /// Scales adapters by alpha / sqrt(rank) (rsLoRA). Default: false, or as the initial adapter.
    pub use_rslora: bool,
    /// Also trains the norm of each row of the adapted weights (DoRA). Default: false, or as the initial adapter.
    pub use_dora: bool,
    /// Adds a trainable bias to each adapter. Default: false, or as the initial adapter.
    pub lora_bias: bool,
    /// Biases of the base model that are trained too. Default: none, or those of the initial adapter.
    pub bias: Option<Bias>,
    /// Modules that are trained as a whole and saved with the adapter. Default: none, or those of the initial adapter.
    pub modules_to_save: Vec<String>,
    /// The initial adapter of the run: a folder, or a hub id. Other options must agree with it if given, except
    /// for the dropout. Default: a new adapter.
    pub init_adapter: Option<PathBuf>,
    /// Dropout of the base model's hidden states and attention. Default: the checkpoint's values.
    pub hidden_dropout: Option<f64>,
}

impl LoraOptions {
    /// The rank of new adapters: [`lora_r`](Self::lora_r), else 16.
    pub fn rank(&self) -> usize {
        self.lora_r.unwrap_or(16)
    }

    /// The alpha of new adapters: [`lora_alpha`](Self::lora_alpha), else 32.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(32.0)
    }

    /// The dropout of new adapters: [`lora_dropout`](Self::lora_dropout), else 0.05.
    pub fn dropout(&self) -> f64 {
        self.lora_dropout.unwrap_or(0.05)
    }
}

/// One of PEFT's values by its name in `adapter_config.json`: `lora_only`, `true`.
pub(crate) fn peft_value<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    let value = match name {
        "true" | "false" => Value::Bool(name == "true"),
        name => Value::String(name.to_owned()),
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// The name of one of PEFT's values in `adapter_config.json`.
pub(crate) fn peft_name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(value) => value.to_string(),
        Err(_) => String::new(),
    }
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tune {
    /// Adapters in the text decoder.
    #[default]
    Text,
    /// Adapters in the vision encoder.
    Vision,
    /// Adapters in both.
    Both,
    /// All weights, without adapters.
    Full,
}

names!(Tune { Text => "text", Vision => "vision", Both => "both", Full => "full" });

/// Which linear layers get adapters, as in PEFT's `target_modules`.
///
/// As text: names separated by commas, a regular expression for whole paths, or `all-linear`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer except the output head.
    AllLinear,
    /// The layers whose path ends in one of these names.
    Names(Vec<String>),
    /// The layers whose whole path matches this regular expression.
    Regex(String),
}

impl FromStr for TargetModules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-,".contains(c);
        match text {
            "all-linear" => Ok(Self::AllLinear),
            _ if text.split(',').any(str::is_empty) => Err("has an empty name".into()),
            _ if text.chars().all(is_plain) => Ok(Self::Names(text.split(',').map(str::to_owned).collect())),
            _ => Ok(Self::Regex(text.into())),
        }
    }
}

impl fmt::Display for TargetModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Names(names) => f.write_str(&names.join(",")),
            Self::Regex(pattern) => f.write_str(pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_modules_are_names_unless_they_need_a_regex() {
        let read = |text: &str| text.parse::<TargetModules>();
        assert_eq!(read("all-linear"), Ok(TargetModules::AllLinear));
        assert_eq!(read("query,value"), Ok(TargetModules::Names(vec!["query".into(), "value".into()])));
        assert_eq!(
            read("attention.output.dense"),
            Ok(TargetModules::Names(vec!["attention.output.dense".into()]))
        );
        assert_eq!(read(r".*\.(query|value)"), Ok(TargetModules::Regex(r".*\.(query|value)".into())));
        assert!(read("query,").is_err() && read("").is_err());
        for text in ["all-linear", "query,value", r".*\.(query|value)"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }
}
