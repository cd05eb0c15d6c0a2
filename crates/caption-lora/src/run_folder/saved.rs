use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use peft_lora::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::cli::Flags;

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

    /// The commit of the hub's model `name` that the run trained, if it recorded one: in the configuration of
    /// its adapter.
    pub fn model_commit(&self, name: &str) -> Option<String> {
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
    fn the_commit_of_the_model_is_that_of_the_adapters_base() {
        let with = |adapter_config| SavedOptions {
            version: "0.1.0".into(),
            command: "pokemon_finetune".into(),
            directory: ".".into(),
            flags: Flags::default(),
            adapter_config,
        };
        let saved = with(Some(LoraConfig {
            base_model_name_or_path: Some("a/b".to_owned()),
            revision: Some("0f3c".to_owned()),
            ..LoraConfig::default()
        }));
        assert_eq!(saved.model_commit("a/b").as_deref(), Some("0f3c"));
        assert_eq!(saved.model_commit("a/other"), None);
        assert_eq!(with(None).model_commit("a/b"), None);
    }
}
