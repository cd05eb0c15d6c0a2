//! Runs and checkpoints in a folder.

use std::path::{Path, PathBuf};

use serde_json::Value;
use trainer_core::SavedCheckpoint;

/// The working directory.
pub(super) const HERE: &str = ".";

/// The step that a folder's `trainer_state.json` describes: that of a checkpoint, whatever its folder is
/// called, or the last one of a run.
pub(crate) fn saved_step(folder: &Path) -> Option<u64> {
    let state = std::fs::read(folder.join("trainer_state.json")).ok()?;
    serde_json::from_slice::<Value>(&state).ok()?["global_step"].as_u64()
}

/// Whether there are checkpoints in a folder.
pub(super) fn has_checkpoints(folder: &Path) -> bool {
    SavedCheckpoint::list(folder).is_ok_and(|checkpoints| !checkpoints.is_empty())
}

/// Lists the checkpoints of a folder in a clause.
pub(super) fn list(folder: &Path) -> String {
    let mut steps: Vec<usize> =
        SavedCheckpoint::list(folder).unwrap_or_default().iter().map(|saved| saved.step).collect();
    steps.sort_unstable();
    let names: Vec<String> = steps.iter().map(|step| format!("checkpoint-{step}")).collect();
    let shown = match folder == Path::new(HERE) {
        true => "this folder".to_owned(),
        false => folder.display().to_string(),
    };
    match names.is_empty() {
        true => format!("{shown} has no checkpoints"),
        false => format!("{shown} has {}", names.join(", ")),
    }
}

/// The folders in a folder, sorted.
pub(crate) fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut folders: Vec<PathBuf> =
        paths.map(|path| path.strip_prefix(HERE).map(Path::to_owned).unwrap_or(path)).collect();
    folders.sort();
    folders
}

/// The runs with checkpoints in the folders of a folder, as values of `--resume`: `, --resume runs/x/a, ...`.
pub(crate) fn runs_below(folder: &Path) -> String {
    let runs = folders_in(folder).into_iter().filter(|run| has_checkpoints(run));
    runs.map(|run| format!(", --resume {}", run.display())).collect()
}
