use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CheckpointStore, ENGINE_STATE, TRAINER_STATE, manifest};
use crate::files::read_json;
use crate::progress::Progress;
use crate::text::with_causes;
use crate::{Error, Result, TrainerState};

/// Which checkpoint to resume from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resume {
    /// The newest undamaged checkpoint in the output directory. Damaged ones are skipped with a
    /// [`Warning::CheckpointSkipped`](crate::Warning::CheckpointSkipped).
    Newest,
    /// As [`Newest`](Self::Newest), but starts a new run if the output directory has no checkpoints: the same program then
    /// starts a run and continues it.
    NewestIfAny,
    /// This checkpoint; an error if it is damaged.
    From(PathBuf),
}

/// A checkpoint that is complete and undamaged.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) state: TrainerState,
    pub(crate) progress: Progress,
    /// Newer checkpoints that are damaged, with the damage.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

/// Finds the checkpoint to resume from.
pub(crate) fn find(store: &CheckpointStore, resume: &Resume) -> Result<Found> {
    match resume {
        Resume::From(path) => open(path).map_err(|reason| Error::Checkpoint { path: path.clone(), reason }),
        Resume::Newest | Resume::NewestIfAny => newest(store),
    }
}

fn newest(store: &CheckpointStore) -> Result<Found> {
    // Checkpoints without a readable date come first, so that they are reported.
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

/// Verifies and reads a checkpoint. The error describes the damage.
fn open(path: &Path) -> Result<Found, String> {
    manifest::verify(path)?;
    let state = read_json(&path.join(TRAINER_STATE)).map_err(|error| with_causes(&error))?;
    let progress = read_json(&path.join(ENGINE_STATE)).map_err(|error| with_causes(&error))?;
    Ok(Found { path: path.to_owned(), state, progress, skipped: Vec::new() })
}

/// Verifies that a directory is the undamaged checkpoint of the best evaluation in `state`, and not one of another run or of
/// an abandoned attempt of this run. The error gives the reason.
pub(crate) fn verify_best(path: &Path, state: &TrainerState) -> Result<(), String> {
    let saved = open(path)?.state;
    let log = state.log_history.get(..saved.log_history.len());
    // The measured times make each log unique. Compared as JSON, where NaN equals itself.
    let same_run = log.is_some_and(|log| json!(log) == json!(saved.log_history));
    let best = (state.best_global_step, state.best_metric);
    if same_run && (Some(saved.global_step), saved.best_metric) == best && saved.best_global_step == best.0 {
        Ok(())
    } else {
        Err("it is not the checkpoint of the run's best evaluation".to_owned())
    }
}
