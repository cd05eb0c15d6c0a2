//! Reads the tensors of files that `torch.save` wrote: `pytorch_model.bin` and `adapter_model.bin`.
//!
//! Such a file is a pickle: a program for a small virtual machine, which may call any Python function. This
//! crate has its own interpreter for such programs. It implements the few functions and classes that a
//! dictionary of tensors needs, and refuses all others by name. It reads both layouts: the zip archive of
//! PyTorch 1.6 and later, and the older one, a sequence of pickles followed by the numbers.
//!
//! ```no_run
//! use torch_files::TorchFile;
//!
//! let file = TorchFile::open("checkpoints/git-base/pytorch_model.bin")?;
//! for (name, shape) in file.shapes() {
//!     println!("{name}: {shape:?}");
//! }
//! let bias = file.tensor("output.bias")?; // on the CPU, in the type that the file has
//! # Ok::<(), torch_files::Error>(())
//! ```

mod container;
mod error;
mod pickle;
mod state;
mod storage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

pub use error::{Error, Result};

use crate::storage::View;

/// The first bytes of a Git LFS pointer: the text in place of a file that was not downloaded.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The tensors of one file by name, each read on request.
#[derive(Clone, Debug)]
pub struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, Place>,
}

/// The location of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its elements in the storage.
    pub(crate) view: View,
    /// The position of the storage in the file, in bytes.
    pub(crate) start: u64,
}

impl TorchFile {
    /// Opens a file and reads the names, shapes and positions of its tensors.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or holds anything besides a dictionary of tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let io = |source| Error::Io { path: path.clone(), source };
        let mut start = Vec::new();
        File::open(&path).and_then(|file| file.take(64).read_to_end(&mut start)).map_err(io)?;
        if start.starts_with(LFS_POINTER) {
            return Err(Error::LfsPointer { path });
        }
        match container::read(&path, &start) {
            Ok(tensors) => Ok(Self { path, tensors }),
            Err(fault) => Err(fault.at(&path)),
        }
    }

    /// Name and shape of every tensor, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), place.view.shape.as_slice()))
    }

    /// The stored type of a tensor; `None` if there is none with that name.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).map(|place| place.view.dtype)
    }

    /// One tensor on the CPU, in its stored type; `None` if there is none with that name.
    ///
    /// # Errors
    /// If the file can no longer be read, or has become shorter.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        let bytes = self.read(place).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let (shape, dtype) = (&place.view.shape, place.view.dtype);
        Ok(Some(Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?))
    }

    /// The elements of a tensor in the order of its shape.
    fn read(&self, place: &Place) -> io::Result<Vec<u8>> {
        let (view, size) = (&place.view, place.view.dtype.size_in_bytes());
        let span = view.span();
        if span == 0 {
            return Ok(Vec::new());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(place.start + (view.offset * size) as u64))?;
        let mut bytes = vec![0; span * size];
        file.read_exact(&mut bytes)?;
        if view.is_contiguous() {
            return Ok(bytes);
        }
        let mut ordered = Vec::with_capacity(view.elements() * size);
        for index in view.indices() {
            ordered.extend_from_slice(&bytes[index * size..][..size]);
        }
        Ok(ordered)
    }
}

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
