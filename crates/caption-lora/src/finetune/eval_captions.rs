use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::{files, results};

/// The lines of `eval_captions.jsonl`, one for each checkpoint.
#[derive(Clone)]
pub(super) struct EvalCaptions {
    path: PathBuf,
    lines: Arc<Mutex<String>>,
}

impl EvalCaptions {
    /// Starts with the lines of the resumed run.
    pub(super) fn new(folder: &Path, is_resumed: bool) -> Self {
        let path = folder.join("eval_captions.jsonl");
        let before =
            if is_resumed { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        Self { path, lines: Arc::new(Mutex::new(before)) }
    }

    /// Keeps only the lines up to the checkpoint that a run is resumed from.
    pub(super) fn truncate(&self, global_step: usize) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        *lines = results::lines_until(global_step, &lines);
    }

    pub(super) fn add(&self, line: &str) -> Result<()> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(line);
        lines.push('\n');
        files::replace(&self.path, lines.as_bytes())
    }
}
