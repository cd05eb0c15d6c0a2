use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use trainer_core::sinks::JsonLinesSink;

use crate::cli::Finetune;
use crate::hub::Location;
use crate::results;

/// The folder of a run's results, found writable before any long work.
#[derive(Debug)]
pub struct OutputFolder {
    /// Its path.
    pub path: PathBuf,
    /// The log that the run appends to.
    pub log: PathBuf,
}

impl OutputFolder {
    /// Makes the folder and opens its log.
    ///
    /// # Errors
    /// If it cannot be written to, or if an input of the run lies in the results that the run will replace.
    pub fn claim(options: &Finetune) -> Result<Self> {
        let path = options.data.output_dir.clone();
        std::fs::create_dir_all(&path).with_context(|| {
            format!("cannot make the output folder {}; choose another with --output-dir", path.display())
        })?;
        let log = path.join("log.jsonl");
        JsonLinesSink::append(&log)?;
        let model = if let Location::Local(dir) = &options.data.model { Some(dir) } else { None };
        for (flag, dir) in [("--init-adapter", options.lora.init_adapter.as_ref()), ("--model", model)] {
            if let Some(dir) = dir
                && options.training.resume.is_none()
                && results::is_result(&path, dir)
            {
                bail!(
                    "{flag} {} is what an earlier run left, and a new run there removes it: choose another --output-dir",
                    dir.display()
                );
            }
        }
        Ok(Self { path, log })
    }
}
