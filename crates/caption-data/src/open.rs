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
/// - a folder that `save_to_disk` of `datasets` wrote: the same of its Arrow files, with the feature `arrow`;
/// - a metadata file, such as `metadata.jsonl`: [`ImageFolder`] of the pictures that it names;
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
        if !has_extension(path, &["parquet", "arrow"]) {
            let why =
                "it is neither a parquet or Arrow file, a metadata file (.jsonl, .csv or .json) nor a folder"
                    .to_owned();
            return Err(Error::NoRows { dataset: path.display().to_string(), why });
        }
        return Ok(Arc::new(ParquetSource::open(&[path], options)?));
    }
    let Files { paths, left_out } = walk(path)?;
    let is_parquet = |file: &PathBuf| has_extension(file, &["parquet"]) && !is_metadata(file);
    let (mut tables, mut others): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_parquet);
    if tables.is_empty() {
        (tables, others) = others.into_iter().partition(|file| is_saved_table(file));
    }
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
    let is_data = |file: &Path| is_picture(file) || is_metadata(file) || has_extension(file, &["arrow"]);
    for file in others.iter().filter(|file| is_data(file)) {
        left_out.add(LeftOutReason::BesideTables, name_in(path, file));
    }
    let is_training = |(file, name): (_, &&str)| training.contains(name).then_some(file);
    let training: Vec<&PathBuf> = tables.iter().zip(&names).filter_map(is_training).collect();
    Ok(Arc::new(ParquetSource::open(&training, options)?.with_left_out(left_out)))
}

fn is_metadata(path: &Path) -> bool {
    path.file_name().is_some_and(|name| selection::is_metadata(&name.to_string_lossy()))
}

/// Whether a file is one of the Arrow files of a saved dataset: those that `state.json` beside it names, or all where there
/// is no such file. Others are what `datasets` keeps of its computations.
fn is_saved_table(file: &Path) -> bool {
    let Some(name) = file.file_name().filter(|_| has_extension(file, &["arrow"])) else { return false };
    let state = fs::read(file.with_file_name("state.json")).ok();
    let state: Option<serde_json::Value> = state.and_then(|state| serde_json::from_slice(&state).ok());
    match state.as_ref().and_then(|state| state["_data_files"].as_array()) {
        Some(files) => files.iter().any(|file| file["filename"].as_str().is_some_and(|file| name == file)),
        None => true,
    }
}
