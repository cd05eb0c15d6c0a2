//! Checkpoints: directories `checkpoint-STEP` that are complete or do not exist.
//!
//! A checkpoint is written under a temporary name, with a [manifest] of its files, their sizes and checksums. Then
//! everything is synced once, and the directory is renamed. A crash at any moment leaves earlier checkpoints intact. If it
//! happens while a checkpoint replaces another of the same step, the next start restores the old one.
//!
//! Files in a checkpoint that the engine did not write are never deleted.

mod manifest;
mod owner;
mod resume;
mod retention;

use std::fs;
use std::path::{Path, PathBuf};

pub use owner::{SavedCheckpoint, SavedRun};
pub use resume::Resume;
pub(crate) use resume::{Found, find, verify_best};
pub(crate) use retention::expired;

use crate::files::{io_error, sync_directory};
use crate::{Error, Result};

const PREFIX: &str = "checkpoint-";

/// Values of the trainable parameters.
pub(crate) const PARAMETERS: &str = "parameters.safetensors";
/// State of the optimizer.
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
/// The public record, with Hugging Face's keys; also in the output directory itself.
pub(crate) const TRAINER_STATE: &str = "trainer_state.json";
/// Everything else that an exact resume needs.
pub(crate) const ENGINE_STATE: &str = "engine_state.json";

/// The checkpoints of an output directory.
#[derive(Debug)]
pub(crate) struct CheckpointStore {
    output_dir: PathBuf,
}

impl CheckpointStore {
    /// Creates the output directory, checks that it is writable, and cleans up after a crash.
    pub(crate) fn open(output_dir: &Path) -> Result<Self> {
        let refuse = |source| Error::OutputDir { path: output_dir.to_owned(), source };
        fs::create_dir_all(output_dir).map_err(refuse)?;
        let probe = output_dir.join(format!(".write-probe-{}", std::process::id()));
        fs::write(&probe, b"probe").and_then(|()| fs::remove_file(&probe)).map_err(refuse)?;

        let store = Self { output_dir: output_dir.to_owned() };
        for leftover in store.list(is_leftover)? {
            if let Some(path) = store.replaced_by(&leftover)
                && !path.exists()
            {
                fs::rename(&leftover, &path).map_err(io_error("restore", &path))?;
                continue;
            }
            fs::remove_dir_all(&leftover).map_err(io_error("remove", &leftover))?;
        }
        Ok(store)
    }

    /// The checkpoints that another worker writes. Nothing is created or cleaned up.
    pub(crate) fn of_another_worker(output_dir: &Path) -> Self {
        Self { output_dir: output_dir.to_owned() }
    }

    pub(crate) fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    /// The path of a step's checkpoint, whether or not it exists.
    pub(crate) fn path(&self, step: usize) -> PathBuf {
        self.output_dir.join(format!("{PREFIX}{step}"))
    }

    /// All directories with the name of a checkpoint.
    pub(crate) fn checkpoints(&self) -> Result<Vec<PathBuf>> {
        self.list(|name| step_of(name).is_some())
    }

    /// Saves a checkpoint. `write` writes its files into the given directory.
    pub(crate) fn save(&self, step: usize, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (path, partial) = (self.path(step), self.write_partial(step, write)?);
        manifest::sync_all(&partial)?;
        let replaced = self.output_dir.join(format!(".checkpoint-{step}.replaced"));
        let publish = || {
            if path.exists() {
                fs::rename(&path, &replaced)?;
            }
            fs::rename(&partial, &path)?;
            sync_directory(&self.output_dir)?;
            if !replaced.exists() {
                return Ok(());
            }
            manifest::move_unlisted(&replaced, &path)?;
            fs::remove_dir_all(&replaced)
        };
        publish().map_err(io_error("save", &path))?;
        Ok(path)
    }

    /// Writes a checkpoint as [`save`](Self::save) does, and deletes it, so that a fault is found before hours
    /// of training, not after.
    pub(crate) fn rehearse(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let partial = self.write_partial(0, write)?;
        fs::remove_dir_all(&partial).map_err(io_error("remove", &partial))
    }

    /// Deletes a checkpoint. It is renamed first, because deleting its files takes time, during which the
    /// process could be killed.
    ///
    /// # Errors
    /// [`Error::ForeignFiles`] if it contains files that no run wrote; it is kept then.
    pub(crate) fn remove(&self, step: usize) -> Result<()> {
        let (path, removed) = (self.path(step), self.output_dir.join(format!(".checkpoint-{step}.removed")));
        self.require_own_files(&path)?;
        let remove = || fs::rename(&path, &removed).and_then(|()| fs::remove_dir_all(&removed));
        remove().map_err(io_error("remove", &path))
    }

    fn require_own_files(&self, checkpoint: &Path) -> Result<()> {
        let names = manifest::unlisted(checkpoint).map_err(io_error("list", checkpoint))?;
        if names.is_empty() {
            Ok(())
        } else {
            Err(Error::ForeignFiles { path: checkpoint.to_owned(), names })
        }
    }

    /// The path of the checkpoint whose predecessor was moved to `leftover`.
    fn replaced_by(&self, leftover: &Path) -> Option<PathBuf> {
        let step = leftover.file_name()?.to_str()?.strip_prefix(".checkpoint-")?.strip_suffix(".replaced")?;
        Some(self.path(step.parse().ok()?))
    }

    fn write_partial(&self, step: usize, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let partial = self.output_dir.join(format!(".checkpoint-{step}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(io_error("remove", &partial))?;
        }
        fs::create_dir(&partial).map_err(io_error("create", &partial))?;
        write(&partial).and_then(|()| manifest::seal(&partial)).inspect_err(|_| {
            // Report the write error, not that of the clean-up: the next start cleans up too.
            fs::remove_dir_all(&partial).ok();
        })?;
        Ok(partial)
    }

    fn list(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        list(&self.output_dir, wanted)
    }
}

/// The directories in `dir` whose names are `wanted`, sorted by name.
fn list(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = || fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>();
    let entries = entries().map_err(io_error("list", dir))?;
    let mut paths: Vec<_> = entries
        .iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted) && entry.path().is_dir())
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

/// Parses the step from the name of a checkpoint's directory.
fn step_of(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether this is the name of a directory that a crash leaves behind while a checkpoint is saved or deleted.
fn is_leftover(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(checkpoint, state)| {
        step_of(checkpoint).is_some() && ["partial", "replaced", "removed"].contains(&state)
    })
}
