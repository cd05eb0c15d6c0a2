//! Atomic file replacement.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use anyhow::{Context as _, Result};

/// Replaces the file at `path`, creating its folder if needed: written under another name, synced, then
/// renamed, so that a reader never sees a partial file.
///
/// # Errors
/// If the folder or the file cannot be written; the message has the path.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&partial, bytes)?;
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
