use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Files
    /// A file or folder could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },

    // Rows
    /// A row that the dataset does not have.
    #[error("{dataset} has {len} rows, row {row} was asked for (rows count from 0)")]
    RowOutOfRange {
        /// Name of the dataset.
        dataset: String,
        /// The row asked for.
        row: usize,
        /// How many rows there are.
        len: usize,
    },
    /// A row that cannot be used, and why.
    #[error("row {row} of {dataset}: {error}")]
    Row {
        /// Name of the dataset.
        dataset: String,
        /// The row, counted from 0.
        row: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },

    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
