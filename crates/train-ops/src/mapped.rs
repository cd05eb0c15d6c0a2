use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use crate::{Error, Result};

/// A file mapped read-only into memory: its pages are read when they are touched, and need no copy of their own.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

/// Bytes around one that is read, within which Linux also maps what happens to be in memory already.
const AROUND: usize = 64 << 10;

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
    /// Gives the memory of a part of the file back, when it has been copied elsewhere, with what the system has mapped
    /// around it; all of it is read again should it be asked for. Only a hint: where the system has no such call, nothing
    /// happens.
    pub fn release(&self, range: Range<usize>) {
        let (start, end) = (range.start.saturating_sub(AROUND), (range.end + AROUND).min(self.0.len()));
        #[cfg(unix)]
        // SAFETY: the mapping is private and never written to, so its pages can be read again from the file, unchanged.
        #[allow(unsafe_code)]
        unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            let _ = self.0.unchecked_advise_range(advice, start, end.saturating_sub(start));
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;

    use super::*;

    /// KiB of this mapping that take memory.
    fn resident(file: &MappedFile) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let name = format!("{:x}-", file.as_ptr() as usize);
        let mut of_file = maps.lines().skip_while(|line| !line.starts_with(&name));
        let line = of_file.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_released_takes_no_memory() {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..16 << 20).map(|i: usize| (i / 4096) as u8).collect();
        written.write_all(&bytes).unwrap();
        let file = MappedFile::open(written.path()).unwrap();
        assert_eq!(resident(&file), 0);
        let parts = (0..bytes.len() - 300_000).step_by(300_000).map(|start| start..start + 150_000);
        // Not one after the other, so that a part does not release what was mapped around the one before.
        let (even, odd): (Vec<_>, Vec<_>) = parts.enumerate().partition(|(number, _)| number % 2 == 0);
        for (_, part) in even.into_iter().chain(odd) {
            assert!(file[part.clone()] == bytes[part.clone()]);
            assert!(resident(&file) >= 140);
            file.release(part);
        }
        assert_eq!(resident(&file), 0);
    }
}
