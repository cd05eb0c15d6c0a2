//! Which run owns the checkpoints of an output directory: a run replaces and deletes only its own.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use super::{CheckpointStore, ENGINE_STATE, list, manifest, step_of};
use crate::files::read_json;
use crate::progress::Progress;
use crate::{Error, Identity, Result, TrainingArguments};

/// A directory with the name of a checkpoint, and its description. Its files are not verified; resuming does that.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SavedCheckpoint {
    /// The directory.
    pub path: PathBuf,
    /// Number of completed optimizer steps, from the directory's name.
    pub step: usize,
    /// The run that saved it; `None` if that cannot be read.
    pub run: Option<SavedRun>,
}

/// The run that saved a checkpoint.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SavedRun {
    /// Unique name of the run, unchanged by a resume. Empty in checkpoints of early versions.
    pub name: String,
    /// When the checkpoint was saved, in nanoseconds since 1970.
    pub saved_at: u64,
    /// The arguments of the run.
    pub arguments: TrainingArguments,
    /// The identity of the run; `None` in checkpoints of early versions.
    pub identity: Option<Identity>,
}

impl SavedCheckpoint {
    /// Lists the checkpoints of an output directory: unreadable ones first, then the newest first. Empty if the directory
    /// does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
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

    /// Reads the description of one checkpoint; `None` if the directory does not have the name of a checkpoint.
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

    /// Whether this engine wrote the checkpoint, complete or not.
    fn is_of_this_engine(&self) -> bool {
        [manifest::NAME, ENGINE_STATE].iter().any(|name| self.path.join(name).exists())
    }
}

impl CheckpointStore {
    /// Returns the checkpoints of an earlier run, which a new run replaces.
    ///
    /// # Errors
    /// [`Error::EarlierCheckpoints`] if there are any and `overwrite` is not set. [`Error::ForeignCheckpoints`] for a
    /// directory with the name of a checkpoint that this engine did not write. [`Error::ForeignFiles`] for files in a
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

    /// Checks that every readable checkpoint of the directory was saved by the run with this name.
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
