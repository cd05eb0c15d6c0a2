//! Git LFS pointers: the small text files that replace large files in a clone without `git lfs`.

use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::Path;

use image_pixels::is_lfs_pointer;

use crate::{Error, Result};

/// # Errors
/// If the bytes of the file at `path` are a pointer.
pub(crate) fn check(path: &Path, file: &[u8]) -> Result<()> {
    if is_lfs_pointer(file) { Err(Error::LfsPointer { path: path.to_owned() }) } else { Ok(()) }
}

/// As [`check`], for an open file that is too large to be read whole. Its position does not change.
pub(crate) fn check_start(path: &Path, mut file: &File) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut start = Vec::new();
    Read::take(file, 64).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    check(path, &start)
}
