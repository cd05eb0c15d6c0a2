use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::{Error, Result};

/// A file mapped read-only into memory: its pages are read when they are touched, and need no copy of their own.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// The file must not be changed while it is mapped; to replace a checkpoint, write a new file and rename it, as
    /// everything in this project does.
    pub fn open(path: &Path) -> Result<Self> {
        let map = File::open(path).and_then(|file| {
            // SAFETY: the mapping is private and read-only. Another process that truncates the file would end this one
            // with SIGBUS, as it would any user of safetensors; the documentation above says so.
            #[allow(unsafe_code)]
            unsafe {
                memmap2::MmapOptions::new().map_copy_read_only(&file)
            }
        });
        map.map(Self).map_err(|source| Error::Map { path: path.to_owned(), source })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
