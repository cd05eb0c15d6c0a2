use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use peft_lora::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::options::{Axis, Flags};

/// The file of [`SavedOptions`] in a checkpoint.
pub const OPTIONS: &str = "options.json";

/// The options of a run, saved for resuming it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedOptions {
    /// Version of the program.
    pub version: String,
    /// The command line in shell syntax.
    pub command: String,
    /// The working directory, from which relative paths among the flags start.
    pub directory: PathBuf,
    /// The flags with their values, including defaults.
    pub flags: Flags,
    /// The adapter's configuration; none with full fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_config: Option<LoraConfig>,
    /// The commits of the model and the dataset. `None` in files of earlier versions, and for a sweep: its
    /// runs have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<Commits>,
    /// The options that a sweep varies; empty for a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<Axis>,
}

/// The commits of a run's inputs; `None` for an input that is not from the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commits {
    /// The model's commit.
    pub model: Option<String>,
    /// The dataset's commit.
    pub dataset: Option<String>,
    /// The commit of the dataset that is named as validation rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
    /// The commit of the dataset that is named as test rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

impl SavedOptions {
    /// Reads the options of the run that saved a checkpoint.
    ///
    /// # Errors
    /// If the file is missing or cannot be parsed; the message has its path.
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Self> {
        let path = checkpoint.join(OPTIONS);
        if !path.exists() {
            // Without the options, a different run could be continued by mistake.
            bail!(
                "cannot resume from {}: it has no {OPTIONS}, in which this version keeps the run's options; an earlier version \
                 saved it. --init-adapter {} begins a new run with its adapter",
                checkpoint.display(),
                checkpoint.join("adapter").display()
            );
        }
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// The commit of the hub's model `name` that the run trained, if it recorded one. Earlier versions recorded
    /// it only in the configuration of the adapter.
    pub fn model_commit(&self, name: &str) -> Option<String> {
        if let Some(commits) = &self.commits {
            return commits.model.clone();
        }
        let config = self.adapter_config.as_ref()?;
        config.revision.clone().filter(|_| config.base_model_name_or_path.as_deref() == Some(name))
    }

    /// The flags for a process in `directory`: relative paths become absolute if the run was started
    /// elsewhere.
    pub fn flags_in(&self, directory: &Path) -> Flags {
        if self.directory == directory { self.flags.clone() } else { self.flags.anchored(&self.directory) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_an_earlier_version_are_read_and_have_the_commit_in_the_adapter() {
        let text = r#"{"version": "0.1.0", "command": "pokemon_finetune", "directory": ".", "flags": {}}"#;
        let earlier: SavedOptions = serde_json::from_str(text).unwrap();
        assert_eq!((&earlier.commits, earlier.sweep.len()), (&None, 0));
        assert_eq!(earlier.model_commit("a/b"), None);
        let adapter_config = Some(LoraConfig {
            base_model_name_or_path: Some("a/b".to_owned()),
            revision: Some("0f3c".to_owned()),
            ..LoraConfig::default()
        });
        let lora = SavedOptions { adapter_config, ..earlier };
        assert_eq!(lora.model_commit("a/b").as_deref(), Some("0f3c"));
        assert_eq!(lora.model_commit("a/other"), None);
        let commits = Some(Commits { model: Some("9d2e".to_owned()), ..Commits::default() });
        let now = SavedOptions { commits, ..lora };
        assert_eq!(now.model_commit("a/b").as_deref(), Some("9d2e"));
        assert_eq!(serde_json::from_str::<SavedOptions>(&serde_json::to_string(&now).unwrap()).unwrap(), now);
    }
}
