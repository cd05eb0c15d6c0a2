//! Datasets in tables: parquet files, and the Arrow files of a saved dataset.

#[cfg(feature = "arrow")]
mod arrow_columns;
#[cfg(feature = "arrow")]
mod arrow_file;
mod parquet_file;
mod parquet_schema;
mod picture_cache;
mod place;
mod recent;
mod records;
mod row_texts;
mod source;
mod table;

use std::path::Path;

pub use place::RemoteFile;
pub(crate) use records::records;
pub use source::ParquetSource;

use self::parquet_file::ParquetFile;
use self::table::Table;
use crate::walk::has_extension;
use crate::{Result, SourceOptions};

/// Opens a parquet or Arrow file, by its extension.
fn open_file(path: &Path, options: &SourceOptions) -> Result<Box<dyn Table>> {
    if has_extension(path, &["arrow"]) {
        return arrow(path, options);
    }
    Ok(Box::new(ParquetFile::open(path, options)?))
}

#[cfg(feature = "arrow")]
fn arrow(path: &Path, options: &SourceOptions) -> Result<Box<dyn Table>> {
    Ok(Box::new(arrow_file::ArrowFile::open(path, options)?))
}

#[cfg(not(feature = "arrow"))]
fn arrow(path: &Path, _options: &SourceOptions) -> Result<Box<dyn Table>> {
    Err(crate::Error::ArrowNotBuilt { path: path.to_owned() })
}
