//! The location of a parquet file: on a disk, or remote.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// A parquet file that is not on a disk, such as one of a repository on the network, of which parts are read when they are
/// needed.
pub trait RemoteFile: Debug + Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &Path;

    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Reads the bytes from `start` on, exactly as many as `bytes` has room for.
    ///
    /// # Errors
    /// If they cannot be read, or if the file ends earlier.
    fn read_at(&self, start: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// A file that is open for reading, from any thread.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Disk(Arc<File>),
    Remote(Arc<dyn RemoteFile>),
}

impl Length for Place {
    fn len(&self) -> u64 {
        match self {
            Self::Disk(file) => file.len(),
            Self::Remote(file) => file.size(),
        }
    }
}

impl ChunkReader for Place {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(match self {
            Self::Disk(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(start))?;
                Box::new(BufReader::new(file))
            }
            Self::Remote(file) => Box::new(BufReader::new(Sequential { file: Arc::clone(file), at: start })),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self {
            Self::Disk(file) => file.get_bytes(start, length),
            Self::Remote(file) => {
                if start.saturating_add(length as u64) > file.size() {
                    return Err(ParquetError::EOF(format!(
                        "{length} bytes at {start} are beyond the end of the file"
                    )));
                }
                let mut bytes = vec![0; length];
                file.read_at(start, &mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

/// Reads a remote file from a position on.
struct Sequential {
    file: Arc<dyn RemoteFile>,
    at: u64,
}

impl Read for Sequential {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.file.size().saturating_sub(self.at).min(bytes.len() as u64) as usize;
        self.file.read_at(self.at, &mut bytes[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}
