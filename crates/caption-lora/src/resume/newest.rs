//! The newest run, for `--resume` without a path.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use trainer_core::SavedCheckpoint;

use super::folders::{HERE, folders_in};
use crate::run_folder::{self, RunRecord};

/// When the newest checkpoint of a run was saved, or of the runs of a sweep.
fn saved_at(folder: &Path) -> Option<u64> {
    let of_run = |folder: &Path| {
        let checkpoints = SavedCheckpoint::list(folder).unwrap_or_default();
        checkpoints.iter().filter_map(|saved| Some(saved.run.as_ref()?.saved_at)).max()
    };
    let is_sweep = || RunRecord::read(folder).is_ok_and(|record| record.is_some_and(|record| record.sweep));
    of_run(folder).or_else(|| {
        if is_sweep() { folders_in(folder).iter().filter_map(|run| of_run(run)).max() } else { None }
    })
}

/// The default folders with checkpoints, the one with the newest first.
pub(super) fn newest_first() -> Vec<PathBuf> {
    let there = run_folder::defaults().take_while(|folder| folder.is_dir());
    let mut runs: Vec<(u64, PathBuf)> =
        there.filter_map(|folder| Some((saved_at(&folder)?, folder))).collect();
    runs.sort();
    runs.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// The run for `--resume` alone: that of the working directory if it is a run's folder, else the newest of
/// the default folders.
pub(super) fn newest_default() -> Result<PathBuf> {
    let here = Path::new(HERE);
    let is_readable = |saved: &SavedCheckpoint| saved.run.is_some();
    let has_readable = SavedCheckpoint::list(here).is_ok_and(|saved| saved.iter().any(is_readable));
    if has_readable || RunRecord::read(here).is_ok_and(|record| record.is_some()) {
        return Ok(here.to_owned());
    }
    // A run without checkpoints cannot be resumed, but the error should name it.
    let begun = || {
        let there = run_folder::defaults().take_while(|folder| folder.is_dir());
        there.filter(|folder| folder.join(run_folder::RECORD).is_file()).last()
    };
    let newest = newest_first().into_iter().next().or_else(begun);
    newest.with_context(|| {
        format!(
            "there is no run to resume in {}: name one with --resume DIR, the folder of a run or of a checkpoint",
            run_folder::DEFAULT
        )
    })
}
