use serde::{Deserialize, Serialize};

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
