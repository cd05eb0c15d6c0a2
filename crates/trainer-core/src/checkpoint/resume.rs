use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CheckpointStore, ENGINE_STATE, TRAINER_STATE, manifest};
use crate::files::read_json;
use crate::progress::Progress;
use crate::{Error, Result, TrainerState};

/// What to resume from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The checkpoint of the output directory that was written last and is undamaged. Those passed over are reported
    /// as [`Warning::CheckpointSkipped`](crate::Warning::CheckpointSkipped).
    Newest,
    /// This checkpoint, or an error if it is damaged.
    From(PathBuf),
}

/// A checkpoint that is complete and undamaged.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) state: TrainerState,
    pub(crate) progress: Progress,
    /// Newer checkpoints that are not, and what is wrong with them.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

/// Finds the checkpoint to resume from.
pub(crate) fn find(store: &CheckpointStore, resume: &Resume) -> Result<Found> {
    match resume {
        Resume::From(path) => open(path).map_err(|reason| Error::Checkpoint { path: path.clone(), reason }),
        Resume::Newest => newest(store),
    }
}

fn newest(store: &CheckpointStore) -> Result<Found> {
    // What has no readable date comes first, so that it is reported.
    let saved_at = |path: &PathBuf| {
        read_json(&path.join(ENGINE_STATE)).map_or(u64::MAX, |progress: Progress| progress.saved_at)
    };
    let mut newest_first = store.checkpoints()?;
    newest_first.sort_by_cached_key(|path| Reverse(saved_at(path)));

    let mut skipped = Vec::new();
    for path in newest_first {
        match open(&path) {
            Ok(found) => return Ok(Found { skipped, ..found }),
            Err(reason) => skipped.push((path, reason)),
        }
    }
    let damaged = skipped.iter().map(|(path, reason)| format!("{}: {reason}", path.display())).collect();
    Err(Error::NoCheckpoint { path: store.output_dir().to_owned(), damaged })
}

/// Verifies and reads a checkpoint; the error says what is wrong with it.
fn open(path: &Path) -> Result<Found, String> {
    manifest::verify(path)?;
    let state = read_json(&path.join(TRAINER_STATE)).map_err(|error| error.to_string())?;
    let progress = read_json(&path.join(ENGINE_STATE)).map_err(|error| error.to_string())?;
    Ok(Found { path: path.to_owned(), state, progress, skipped: Vec::new() })
}

/// Verifies that a directory is the undamaged checkpoint of the best evaluation in `state`, and not that of another run
/// or of an earlier try of this one; the error says what is wrong with it.
pub(crate) fn verify_best(path: &Path, state: &TrainerState) -> Result<(), String> {
    let saved = open(path)?.state;
    let log = state.log_history.get(..saved.log_history.len());
    // The times in a log are no other run's. As JSON, as there what is not a number equals itself.
    let same_run = log.is_some_and(|log| json!(log) == json!(saved.log_history));
    let best = (state.best_global_step, state.best_metric);
    if same_run && (Some(saved.global_step), saved.best_metric) == best && saved.best_global_step == best.0 {
        Ok(())
    } else {
        Err("it is not of the run's best evaluation".to_owned())
    }
}
