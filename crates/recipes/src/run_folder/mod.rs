//! The folder of a run: who uses it now, and what a run wrote there.
//!
//! A run removes and replaces nothing but what [`RunRecord`] says that a run wrote. Everything else in the folder belongs to
//! somebody else.

mod lock;
mod record;
mod saved;

pub use lock::{FolderLock, Locked};
pub use record::{RECORD, RunRecord, RunState};
pub use saved::{OPTIONS, SavedOptions};

use std::path::{Path, PathBuf};

/// Where runs are written unless `--output-dir` says otherwise; then `runs/pokemon-2` and so on.
pub const DEFAULT: &str = "runs/pokemon";

/// The default folders in their order: `runs/pokemon`, `runs/pokemon-2`, ...
pub fn defaults() -> impl Iterator<Item = PathBuf> {
    let name = |number| if number == 1 { DEFAULT.to_owned() } else { format!("{DEFAULT}-{number}") };
    (1_usize..).map(move |number| name(number).into())
}

/// Whether nothing is in a folder, or there is no such folder.
pub fn is_free(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == lock::NAME)),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
