use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file that is read in parts, from any thread: a checkpoint whose tensors are loaded one at a time, or a
/// cache of features from which a batch reads a few.
///
/// Parts are read on request and never mapped into memory. So if the file is truncated or changed meanwhile,
/// the result is an error or wrong values, but never undefined behaviour.
#[derive(Debug)]
pub struct RandomAccessFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RandomAccessFile {
    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Length in bytes when the file was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads a range of bytes.
    ///
    /// # Errors
    /// If the file ends before the range does, or cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to(range, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a range of bytes and appends them to `bytes`.
    ///
    /// # Errors
    /// As [`read`](Self::read); `bytes` are then unchanged.
    pub fn read_to(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let count = range.end.saturating_sub(range.start);
        // Checked before memory is allocated, since a damaged header may contain any length.
        if range.end > self.len || usize::try_from(count).is_err() {
            let message = format!("bytes {} to {} of {}", range.start, range.end, self.len);
            return Err(failed(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message)));
        }
        let start = bytes.len();
        bytes.resize(start + count as usize, 0);
        read_exact_at(&self.file, &mut bytes[start..], range.start).map_err(|source| {
            bytes.truncate(start);
            failed(source)
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::NamedTempFile, RandomAccessFile) {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        written.write_all(bytes).unwrap();
        let file = RandomAccessFile::open(written.path()).unwrap();
        (written, file)
    }

    #[test]
    fn ranges_are_those_of_the_file() {
        let bytes: Vec<u8> = (0..1000).map(|i| (i / 7) as u8).collect();
        let (_written, file) = file_of(&bytes);
        assert_eq!((file.len(), file.is_empty()), (1000, false));
        for range in [0..0, 0..1, 13..700, 999..1000, 0..1000, 1000..1000] {
            assert_eq!(file.read(range.clone()).unwrap(), bytes[range.start as usize..range.end as usize]);
        }
        let mut both = vec![1, 2];
        file.read_to(5..7, &mut both).unwrap();
        assert_eq!(both, [1, 2, bytes[5], bytes[6]]);
    }

    #[test]
    fn a_range_beyond_the_end_is_an_error_that_names_the_file() {
        let (written, file) = file_of(&[1, 2, 3]);
        for range in [0..4, 3..u64::MAX, 9..10] {
            let error = file.read(range).unwrap_err();
            assert!(error.to_string().contains(&*written.path().to_string_lossy()), "{error}");
        }
        assert!(RandomAccessFile::open(Path::new("no/such/file")).is_err());
    }

    /// With a memory map, reading the lost part ended the process.
    #[test]
    fn a_file_that_is_truncated_while_it_is_open_is_an_error() {
        let (written, file) = file_of(&[7; 100_000]);
        written.as_file().set_len(10).unwrap();
        assert_eq!(file.read(0..10).unwrap(), [7; 10]);
        let mut bytes = vec![1];
        assert!(file.read_to(50_000..60_000, &mut bytes).is_err());
        assert_eq!(bytes, [1]);
    }
}
