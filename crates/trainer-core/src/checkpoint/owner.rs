//! Whose the checkpoints of an output directory are: a run replaces and removes none but its own.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use super::{CheckpointStore, ENGINE_STATE, list, manifest, step_of};
use crate::files::read_json;
use crate::progress::Progress;
use crate::{Error, Identity, Result, TrainingArguments};

/// A directory that is named as checkpoints are, and what it says of itself. Whether its files are whole is found out when
/// it is resumed from.
#[derive(Clone, Debug)]
pub struct SavedCheckpoint {
    /// The directory.
    pub path: PathBuf,
    /// Optimizer steps made, by the directory's name.
    pub step: usize,
    /// The run that saved it; `None` where that cannot be read.
    pub run: Option<SavedRun>,
}

/// The run that saved a checkpoint.
#[derive(Clone, Debug)]
pub struct SavedRun {
    /// The run's name, which no other run has, and which it keeps when it is resumed. Empty in checkpoints of early versions.
    pub name: String,
    /// When the checkpoint was saved, in nanoseconds since 1970.
    pub saved_at: u64,
    /// The arguments that it was saved with.
    pub arguments: TrainingArguments,
    /// The identity of the run; `None` in checkpoints of early versions.
    pub identity: Option<Identity>,
}

impl SavedCheckpoint {
    /// The checkpoints of an output directory: those that cannot be read first, then the newest first. None where there is no
    /// such directory.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn list(output_dir: &Path) -> Result<Vec<Self>> {
        if !output_dir.is_dir() {
            return Ok(Vec::new());
        }
        let paths = list(output_dir, |name| step_of(name).is_some())?;
        let mut checkpoints: Vec<Self> = paths.iter().filter_map(|path| Self::read(path)).collect();
        checkpoints
            .sort_by_key(|checkpoint| Reverse(checkpoint.run.as_ref().map_or(u64::MAX, |run| run.saved_at)));
        Ok(checkpoints)
    }

    /// What the directory `path` says of itself; `None` if it is not named as checkpoints are.
    pub fn read(path: &Path) -> Option<Self> {
        let step = step_of(path.file_name()?.to_str()?)?;
        let run = read_json(&path.join(ENGINE_STATE)).ok().map(|progress: Progress| SavedRun {
            name: progress.run,
            saved_at: progress.saved_at,
            arguments: progress.arguments,
            identity: progress.identity,
        });
        Some(Self { path: path.to_owned(), step, run })
    }

    /// Whether this engine wrote it, whole or not.
    fn is_of_this_engine(&self) -> bool {
        [manifest::NAME, ENGINE_STATE].iter().any(|name| self.path.join(name).exists())
    }
}

impl CheckpointStore {
    /// The checkpoints of an earlier run, which a new run replaces; none if the directory has none.
    ///
    /// # Errors
    /// Unless `overwrite` is set, [`Error::EarlierCheckpoints`] if there are any. In any case, [`Error::ForeignCheckpoints`]
    /// for a directory with such a name that this engine did not write, and [`Error::ForeignFiles`] for files in a
    /// checkpoint that no run wrote.
    pub(crate) fn earlier(&self, overwrite: bool) -> Result<Vec<SavedCheckpoint>> {
        let mut earlier = SavedCheckpoint::list(self.output_dir())?;
        earlier.sort_by_key(|checkpoint| checkpoint.step);
        self.require_own(earlier.iter().filter(|checkpoint| !checkpoint.is_of_this_engine()))?;
        if !earlier.is_empty() && !overwrite {
            let paths = earlier.into_iter().map(|checkpoint| checkpoint.path).collect();
            return Err(Error::EarlierCheckpoints { path: self.output_dir().to_owned(), paths });
        }
        earlier.iter().try_for_each(|checkpoint| self.require_own_files(&checkpoint.path))?;
        Ok(earlier)
    }

    /// Makes sure that every checkpoint of the directory is one that the run of this name saved, or a damaged one.
    ///
    /// # Errors
    /// [`Error::ForeignCheckpoints`].
    pub(crate) fn require_run(&self, name: &str) -> Result<()> {
        let mut checkpoints = SavedCheckpoint::list(self.output_dir())?;
        checkpoints.sort_by_key(|checkpoint| checkpoint.step);
        self.require_own(checkpoints.iter().filter(|checkpoint| match &checkpoint.run {
            Some(run) => run.name != name,
            None => !checkpoint.is_of_this_engine(),
        }))
    }

    fn require_own<'a>(&self, foreign: impl Iterator<Item = &'a SavedCheckpoint>) -> Result<()> {
        let paths: Vec<PathBuf> = foreign.map(|checkpoint| checkpoint.path.clone()).collect();
        if paths.is_empty() {
            Ok(())
        } else {
            Err(Error::ForeignCheckpoints { path: self.output_dir().to_owned(), paths })
        }
    }
}
