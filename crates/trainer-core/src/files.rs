//! Atomic and durable file operations: after a crash, a file is complete or absent.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Adds the action and the path to an I/O error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// Replaces the file at `path` by the file that `write` writes to its argument, a temporary path. To survive
/// not only a crash of the process but also a loss of power, call [`sync_file`] afterwards.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    write(partial).and_then(|()| fs::rename(partial, path)).map_err(io_error("write", path)).inspect_err(
        |_| {
            // Report the write error, not that of the clean-up.
            fs::remove_file(partial).ok();
        },
    )
}

/// As [`replace`], with `value` as indented JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    replace(path, |partial| fs::write(partial, serde_json::to_vec_pretty(value)?))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let read = || -> io::Result<T> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    read().map_err(io_error("read", path))
}

/// Syncs the content and the name of a file to disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    let synced = sync(path).and_then(|()| path.parent().map_or(Ok(()), sync_directory));
    synced.map_err(io_error("sync", path))
}

/// Syncs the content of a file to disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs the names in a directory to disk.
#[cfg(unix)]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    sync(if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

/// Does nothing: other systems cannot open a directory to sync it.
#[cfg(not(unix))]
pub(crate) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}
