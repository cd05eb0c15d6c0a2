//! Finds the run or the sweep to continue, and reads its saved state.

pub(crate) mod commits;
pub(crate) mod folders;
mod newest;
mod place;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use trainer_core::{SavedCheckpoint, SavedRun};

use crate::options::Flags;
use crate::run_folder::SavedOptions;

pub use commits::with_commits;
pub use place::{Resume, RunPlace};

/// The run to continue.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Its folder.
    pub folder: PathBuf,
    /// The checkpoint that was named; `None` for the newest undamaged one.
    pub checkpoint: Option<PathBuf>,
    /// The checkpoint that the options come from: the named one, else the newest.
    pub newest: PathBuf,
    /// The step of that checkpoint.
    pub step: usize,
    /// The run's state in that checkpoint.
    pub run: SavedRun,
    /// The run's saved options.
    pub options: SavedOptions,
}

impl Resumed {
    /// Reads the run that is in a folder.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be read; the message describes what is there instead.
    pub fn open(place: &RunPlace) -> Result<Self> {
        let newest = match &place.checkpoint {
            Some(path) => SavedCheckpoint::read(path).with_context(|| place::no_checkpoint(path))?,
            None => place::newest_of(&place.folder)?,
        };
        let run = newest.run.with_context(|| {
            format!(
                "cannot resume from {}: it is damaged, or no checkpoint of this program",
                newest.path.display()
            )
        })?;
        let options = SavedOptions::of_checkpoint(&newest.path)?;
        let RunPlace { folder, checkpoint, .. } = place.clone();
        Ok(Self { folder, checkpoint, newest: newest.path, step: newest.step, run, options })
    }

    /// The output folder: `named`, else the run's own.
    pub fn output_dir(&self, named: Option<&Path>) -> PathBuf {
        named.map_or_else(|| self.folder.clone(), Path::to_owned)
    }
}

/// The sweep to continue.
#[derive(Clone, Debug)]
pub struct ResumedSweep {
    /// Its folder.
    pub folder: PathBuf,
    /// The flags of the command line that continues it.
    pub given: Flags,
}

/// Whether two paths are the same existing folder.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
