//! The folder of a run: its lock, and the record of the files that the run wrote.
//!
//! A run removes and replaces only files that a run wrote according to [`RunRecord`]. Everything else in the
//! folder belongs to others.

mod lock;
mod record;
mod saved;

pub use lock::{FolderLock, Locked};
pub use record::{RECORD, RunRecord, RunState};
pub use saved::{Commits, OPTIONS, SavedOptions};

use std::path::{Path, PathBuf};

/// The default output folder; the next ones are `runs/pokemon-2` and so on.
pub const DEFAULT: &str = "runs/pokemon";

/// The default folders in order: `runs/pokemon`, `runs/pokemon-2`, ...
pub fn defaults() -> impl Iterator<Item = PathBuf> {
    let name = |number| if number == 1 { DEFAULT.to_owned() } else { format!("{DEFAULT}-{number}") };
    (1_usize..).map(move |number| name(number).into())
}

/// Whether a folder is empty or missing.
pub fn is_free(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.all(|entry| entry.is_ok_and(|entry| lock::is_lock(&entry.path()))),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
