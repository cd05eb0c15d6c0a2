use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::walk::{Files, has_extension, is_picture, name_in, walk};
use crate::{
    CaptionSource, ColumnRole, Error, ImageDecoder, ImageFolder, LeftOutReason, ParquetSource, Result,
    selection,
};

/// How a dataset on disk is read.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// The column of a table that holds the pictures, or of metadata that holds the names of their files. The default is
    /// `image`, else the only column with pictures; of metadata `file_name`, else the only one with another usual name.
    pub image_column: Option<String>,
    /// The column of a table or of metadata that holds the captions: texts, numbers, class labels, or lists of these, which
    /// are several captions of one picture. The default is `text`, else the only column with another usual name, such as
    /// `caption`, `prompt` or `description`.
    pub caption_column: Option<String>,
    /// The column that holds the prompts, which captions continue. The default is none.
    pub prompt_column: Option<String>,
    /// Whether to read pictures and prompts alone: then no caption column is needed, no caption file either, and all captions
    /// are blank. The default is not.
    pub no_captions: bool,
    /// What reads the pictures.
    pub decoder: ImageDecoder,
}

impl SourceOptions {
    /// The columns that are named, each with what it should hold.
    pub fn named_columns(&self) -> impl Iterator<Item = (ColumnRole, &str)> {
        let columns = [
            (ColumnRole::Image, &self.image_column),
            (ColumnRole::Caption, &self.caption_column),
            (ColumnRole::Prompt, &self.prompt_column),
        ];
        columns.into_iter().filter_map(|(role, column)| Some((role, column.as_deref()?)))
    }
}

/// Opens a dataset by what lies at `path`:
///
/// - a parquet file: [`ParquetSource`];
/// - a folder with parquet files, at any depth: [`ParquetSource`] of its training split, in the order of the
///   paths;
/// - any other folder: [`ImageFolder`] of the pictures of its training split.
///
/// [`selection`] says what belongs to the training split. A file or folder of another split is opened where `path`
/// names it itself.
///
/// # Errors
/// If nothing is there that can be read or trained on, if the training split is not whole, or as
/// [`ParquetSource::open`] and [`ImageFolder::open`].
pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Arc<dyn CaptionSource>> {
    let path = path.as_ref();
    let kind = fs::metadata(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    if kind.is_file() {
        if has_extension(path, &["jsonl", "csv", "json"]) || is_metadata(path) {
            return Ok(Arc::new(ImageFolder::open(path, options)?));
        }
        if !has_extension(path, &["parquet"]) {
            let why = "it is neither a parquet file, a metadata file (.jsonl, .csv or .json) nor a folder"
                .to_owned();
            return Err(Error::NoRows { dataset: path.display().to_string(), why });
        }
        return Ok(Arc::new(ParquetSource::open(&[path], options)?));
    }
    let Files { paths, left_out } = walk(path)?;
    let is_table = |file: &Path| has_extension(file, &["parquet"]) && !is_metadata(file);
    let (tables, others): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|file| is_table(file));
    if tables.is_empty() {
        return Ok(Arc::new(ImageFolder::open(path, options)?));
    }
    let names: Vec<String> = tables.iter().map(|file| name_in(path, file)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let training = selection::local_parquet_files(&names)
        .map_err(|refusal| Error::Selection { dataset: path.display().to_string(), refusal })?;
    let mut left_out = left_out;
    for name in names.iter().filter(|name| !training.contains(name)) {
        left_out.add(selection::why_not_of_tables(name), *name);
    }
    for file in others.iter().filter(|file| is_picture(file) || is_metadata(file)) {
        left_out.add(LeftOutReason::BesideTables, name_in(path, file));
    }
    let is_training = |(file, name): (_, &&str)| training.contains(name).then_some(file);
    let training: Vec<&PathBuf> = tables.iter().zip(&names).filter_map(is_training).collect();
    Ok(Arc::new(ParquetSource::open(&training, options)?.with_left_out(left_out)))
}

fn is_metadata(path: &Path) -> bool {
    path.file_name().is_some_and(|name| selection::is_metadata(&name.to_string_lossy()))
}
