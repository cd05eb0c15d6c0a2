use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use peft_lora::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::cli::Flags;

/// The file of [`SavedOptions`] in a checkpoint.
pub const OPTIONS: &str = "options.json";

/// The options of a run, with which it is resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedOptions {
    /// Version of this program.
    pub version: String,
    /// The command line, as a shell takes it.
    pub command: String,
    /// The working directory, which relative paths among the flags start from.
    pub directory: PathBuf,
    /// The flags with their values, those of defaults included.
    pub flags: Flags,
    /// The adapter's configuration; none where every weight is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_config: Option<LoraConfig>,
}

impl SavedOptions {
    /// Reads the options of the run that saved a checkpoint.
    ///
    /// # Errors
    /// If the file is not there or cannot be understood; the message has its path.
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Self> {
        let path = checkpoint.join(OPTIONS);
        if !path.exists() {
            // Without them it could be another run that is continued.
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

    /// The flags for a process in `directory`: relative paths are made absolute where the run was started elsewhere.
    pub fn flags_in(&self, directory: &Path) -> Flags {
        if self.directory == directory { self.flags.clone() } else { self.flags.anchored(&self.directory) }
    }
}
