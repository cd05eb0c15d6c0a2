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

impl MappedFile {
    /// Gives the memory of a part of the file back, when it has been copied elsewhere; it is read again should it be
    /// asked for. Only a hint: where the system has no such call, nothing happens.
    pub fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        // SAFETY: the mapping is private and never written to, so its pages can be read again from the file, unchanged.
        #[allow(unsafe_code)]
        unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            let _ = self.0.unchecked_advise_range(advice, range.start, range.len());
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
