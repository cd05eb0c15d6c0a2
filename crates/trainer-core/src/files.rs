//! Files that are there whole or not at all, also after a crash.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Names the action and the path in an I/O error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// Replaces the file at `path` by `value` as indented JSON: under another name first, then renamed. It survives the end of
/// the process; one who needs it to survive a loss of power calls [`sync_file`] as well.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let partial = path.with_extension("json.partial");
    let write = || -> io::Result<()> {
        fs::write(&partial, serde_json::to_vec_pretty(value)?)?;
        fs::rename(&partial, path)
    };
    write().map_err(io_error("write", path))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let read = || -> io::Result<T> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    read().map_err(io_error("read", path))
}

/// Waits until the content and the name of a file are on the disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    let synced = sync(path).and_then(|()| path.parent().map_or(Ok(()), sync_directory));
    synced.map_err(io_error("sync", path))
}

/// Waits until the content of a file is on the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Waits until the names in a directory are on the disk.
#[cfg(unix)]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    sync(if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

/// Waits until the names in a directory are on the disk: other systems do not let a directory be opened for that.
#[cfg(not(unix))]
pub(crate) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}
