use std::io;
use std::path::{Path, PathBuf};

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The file is a Git LFS pointer: the large file itself was not downloaded.
    #[error("{} is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The file is truncated, or not a PyTorch file.
    #[error("{} is damaged or not a file of torch.save: {reason}; download or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// The file refers to a Python function or class that tensors do not need.
    #[error(
        "{} asks for the Python object {name}, which is refused: a file of weights needs no such thing, and running it could \
         do anything; if you trust the file, load it in Python and save its tensors as safetensors",
        path.display()
    )]
    Global {
        /// The file.
        path: PathBuf,
        /// The object's full name, such as `posix.system`.
        name: String,
    },
    /// The file holds something that this crate does not support.
    #[error("{}: {what}; load it in Python and save its tensors as safetensors", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The unsupported content.
        what: String,
    },
    /// Candle could not create a tensor.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An [`Error`] without the file's path.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    Damaged(String),
    Global(String),
    Unsupported(String),
}

impl Fault {
    pub(crate) fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            // A file that ends too early is damaged, whatever the kind of the I/O error.
            Self::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Damaged { path, reason: "it ends too early".to_owned() }
            }
            Self::Io(source) => Error::Io { path, source },
            Self::Damaged(reason) => Error::Damaged { path, reason },
            Self::Global(name) => Error::Global { path, name },
            Self::Unsupported(what) => Error::Unsupported { path, what },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
