use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Saved flags that a later flag replaces: a run with `--max-steps 10` that is resumed with
/// `--num-train-epochs 30` trains for 30 epochs.
const MAKES_VOID: [(&str, &str); 6] = [
    ("no-shuffle", "shuffle-window"),
    ("num-train-epochs", "max-steps"),
    ("no-feature-cache", "feature-cache-dir"),
    ("no-feature-cache", "feature-cache-memory"),
    ("feature-cache-dir", "no-feature-cache"),
    ("feature-cache-memory", "no-feature-cache"),
];

/// Flags whose values are paths.
const PATHS: [&str; 6] = ["dataset", "feature-cache-dir", "init-adapter", "model", "test", "validation"];

/// The options of a run as flags, by their names without dashes, with given or default values. They are saved with a run and
/// reused when it is resumed. Flags of one command, such as the output folder, are not among them.
///
/// ```
/// use caption_lora::options::{Finetune, Flags, LoraOptions};
///
/// let lora = LoraOptions { lora_r: Some(8), ..Default::default() };
/// let flags = Flags::from(&Finetune { lora, ..Default::default() });
/// assert_eq!(flags.given_arguments(), ["--lora-r=8"]);
/// assert_eq!(flags.value("seed"), Some("42".as_ref()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(BTreeMap<String, Flag>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flag {
    /// Empty for a flag without values.
    values: Vec<Text>,
    /// Whether it was given; otherwise it has its default value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given: bool,
}

/// A value: text, or a path that is not valid text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Raw(OsString),
}

impl From<OsString> for Text {
    fn from(text: OsString) -> Self {
        text.into_string().map_or_else(Self::Raw, Self::Plain)
    }
}

impl AsRef<OsStr> for Text {
    fn as_ref(&self) -> &OsStr {
        match self {
            Self::Plain(text) => text.as_ref(),
            Self::Raw(text) => text,
        }
    }
}

impl Flags {
    /// Adds a flag by its name without dashes; a flag without values is a switch. `given` is false for a default value.
    pub fn insert(&mut self, name: &str, values: impl IntoIterator<Item = OsString>, given: bool) {
        let values = values.into_iter().map(Text::from).collect();
        self.0.insert(name.to_owned(), Flag { values, given });
    }

    /// These flags, replaced by those given in `later`.
    #[must_use]
    pub fn with(&self, later: &Self) -> Self {
        let mut flags = self.clone();
        for (name, void) in MAKES_VOID {
            if later.is_given(name) {
                flags.0.remove(void);
            }
        }
        let given = later.0.iter().filter(|(_, flag)| flag.given);
        flags.0.extend(given.map(|(name, flag)| (name.clone(), flag.clone())));
        flags
    }

    /// Whether a flag was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|flag| flag.given)
    }

    /// The value of a flag.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name)?.values.first().map(AsRef::as_ref)
    }

    /// Removes a flag; returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// These flags, with relative paths made absolute, starting from `directory`.
    #[must_use]
    pub fn anchored(&self, directory: &Path) -> Self {
        let mut flags = self.clone();
        for name in PATHS {
            for value in flags.0.get_mut(name).into_iter().flat_map(|flag| &mut flag.values) {
                // A hub id is not a path, nor is `embedded`; a feature cache folder may not exist yet.
                let path = directory.join(value.as_ref());
                let is_pattern = value.as_ref().to_str().is_some_and(caption_data::is_pattern);
                let is_path = (path.exists() || is_pattern) && value.as_ref() != "embedded";
                if is_path || name == "feature-cache-dir" {
                    *value = path.into_os_string().into();
                }
            }
        }
        flags
    }

    /// All flags as arguments of a program.
    pub fn arguments(&self) -> Vec<OsString> {
        self.0.iter().flat_map(|(name, flag)| arguments(name, flag)).collect()
    }

    /// The flags that were given, as arguments of a program.
    pub fn given_arguments(&self) -> Vec<OsString> {
        let given = self.0.iter().filter(|(_, flag)| flag.given);
        given.flat_map(|(name, flag)| arguments(name, flag)).collect()
    }
}

fn arguments(name: &str, flag: &Flag) -> Vec<OsString> {
    let with_value = |value: &Text| {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value);
        argument
    };
    if flag.values.is_empty() {
        vec![format!("--{name}").into()]
    } else {
        flag.values.iter().map(with_value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_from_where_the_run_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pictures", "embedded"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let text = r#"{"model": {"values": ["microsoft/git-base"], "given": true},
            "init-adapter": {"values": ["embedded"]}, "dataset": {"values": ["pictures"], "given": true},
            "test": {"values": ["500"]}, "validation": {"values": ["shards/{0..1}.tar"]}}"#;
        let flags: Flags = serde_json::from_str(text).unwrap();
        let dataset = format!("--dataset={}", folder.path().join("pictures").display());
        let validation = format!("--validation={}", folder.path().join("shards/{0..1}.tar").display());
        assert_eq!(
            flags.anchored(folder.path()).arguments(),
            [&dataset, "--init-adapter=embedded", "--model=microsoft/git-base", "--test=500", &validation]
                .map(OsString::from)
        );
    }
}
