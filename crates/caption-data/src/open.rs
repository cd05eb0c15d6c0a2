use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::walk::{Files, has_extension, is_archive, is_picture, name_in, walk};
use crate::webdataset::{expand, names_files};
use crate::{
    CaptionSource, ColumnRole, Error, ImageDecoder, ImageFolder, LeftOut, LeftOutReason, Result, WebDataset,
    selection,
};

/// How to read a dataset on disk.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// The column of pictures in a table, or of file names in metadata. The default in a table is `image`, or
    /// else the only column of pictures. In metadata it is `file_name`, or else the only column with another
    /// usual name.
    pub image_column: Option<String>,
    /// The column of captions, in a table or in metadata. Its values are texts, numbers, class labels, or
    /// lists of these, which are several captions of one picture. The default is `text`, or else the only
    /// column with another usual name, such as `caption`, `prompt` or `description`.
    pub caption_column: Option<String>,
    /// The column of prompts, the texts that captions continue. The default is none.
    pub prompt_column: Option<String>,
    /// The column of class labels, which are read instead of captions: [`ClassLabels`](crate::ClassLabels) has
    /// their numbers, and their names are the captions of the rows. The default is none.
    pub label_column: Option<String>,
    /// Read only pictures and prompts. Neither a caption column nor caption files are needed then, and all
    /// captions are blank. The default is `false`.
    pub no_captions: bool,
    /// The decoder of the pictures.
    pub decoder: ImageDecoder,
    /// A folder for the indices of tar files whose own folder is not writable. The default is none.
    pub index_cache: Option<PathBuf>,
    /// The memory for encoded pictures of a parquet or Arrow file, in bytes. The default is 1 GiB, or 124 MiB for a
    /// [large](crate::is_large) dataset, which is enough for a window of [`WINDOW_BYTES`](crate::WINDOW_BYTES).
    pub memory: Option<usize>,
}

impl SourceOptions {
    /// The columns that these options name, each with its role.
    pub fn named_columns(&self) -> impl Iterator<Item = (ColumnRole, &str)> {
        let columns = [
            (ColumnRole::Image, &self.image_column),
            (ColumnRole::Caption, &self.caption_column),
            (ColumnRole::Prompt, &self.prompt_column),
            (ColumnRole::Label, &self.label_column),
        ];
        columns.into_iter().filter_map(|(role, column)| Some((role, column.as_deref()?)))
    }
}

/// Opens the dataset at `path`. Its kind is detected:
///
/// - a parquet file, with the feature `parquet`: [`ParquetSource`](crate::ParquetSource);
/// - a folder with parquet files, at any depth: [`ParquetSource`](crate::ParquetSource) of its training split, in the order of the
///   paths;
/// - a folder written by `save_to_disk` of `datasets`: the same for its Arrow files, with the feature
///   `arrow`;
/// - a tar file, a folder with tar files, or a pattern of them such as `shards/{0000..0099}.tar` or `shards/*.tar`:
///   [`WebDataset`];
/// - a metadata file, such as `metadata.jsonl`: [`ImageFolder`] of the pictures that it names;
/// - any other folder: [`ImageFolder`] of the pictures of its training split.
///
/// [`selection`] defines the training split. A file or folder of another split can be opened by its own path.
///
/// # Errors
/// If there is nothing to read or to train on, if the training split is incomplete, or as
/// [`ParquetSource::open`](crate::ParquetSource::open) and [`ImageFolder::open`].
pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Arc<dyn CaptionSource>> {
    let path = path.as_ref();
    if let Some(pattern) = names_files(path) {
        return open_files(pattern, options);
    }
    let kind = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    if kind.is_file() {
        if has_extension(path, &["jsonl", "csv", "json"]) || is_metadata(path) {
            return Ok(Arc::new(ImageFolder::open(path, options)?));
        }
        if has_extension(path, &["tar"]) {
            return Ok(Arc::new(WebDataset::open(&[path], options)?));
        }
        if !has_extension(path, &["parquet", "arrow"]) {
            let why = match is_archive(path) {
                true => "it is an archive: unpack it, and name the folder that it holds",
                false => {
                    "it is neither a parquet or Arrow file, a metadata file (.jsonl, .csv or .json) nor a folder"
                }
            };
            return Err(Error::NoRows { dataset: path.display().to_string(), why: why.to_owned() });
        }
        return open_tables(&[path], LeftOut::default(), options);
    }
    let Files { paths, left_out } = walk(path)?;
    let is_parquet = |file: &PathBuf| has_extension(file, &["parquet"]) && !is_metadata(file);
    let (mut tables, mut others): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_parquet);
    if tables.is_empty() {
        (tables, others) = others.into_iter().partition(|file| is_saved_table(file));
    }
    if tables.is_empty() && !others.iter().any(|file| is_picture(file) || is_metadata(file)) {
        let shards: Vec<&PathBuf> = others.iter().filter(|file| has_extension(file, &["tar"])).collect();
        if !shards.is_empty() {
            return Ok(Arc::new(WebDataset::open(&training(path, &shards)?, options)?));
        }
    }
    if tables.is_empty() {
        return Ok(Arc::new(ImageFolder::of_files(path, Files { paths: others, left_out }, options)?));
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
    open_tables(&training, left_out, options)
}

/// The files of a folder's training split.
fn training<'a>(folder: &Path, files: &[&'a PathBuf]) -> Result<Vec<&'a PathBuf>> {
    let names: Vec<String> = files.iter().map(|file| name_in(folder, file)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let chosen = selection::local_parquet_files(&names)
        .map_err(|refusal| Error::Selection { dataset: folder.display().to_string(), refusal })?;
    Ok(files.iter().zip(&names).filter(|(_, name)| chosen.contains(name)).map(|(file, _)| *file).collect())
}

/// Opens the files that a pattern names.
fn open_files(pattern: &str, options: &SourceOptions) -> Result<Arc<dyn CaptionSource>> {
    let files = expand(pattern)?;
    if files.iter().all(|file| has_extension(file, &["tar"])) {
        return Ok(Arc::new(WebDataset::open(&files, options)?));
    }
    if files.iter().all(|file| has_extension(file, &["parquet", "arrow"])) {
        return open_tables(&files, LeftOut::default(), options);
    }
    let why = "its files must all be tar files, or all parquet or Arrow files".to_owned();
    Err(Error::NoRows { dataset: pattern.to_owned(), why })
}

#[cfg(feature = "parquet")]
fn open_tables(
    paths: &[impl AsRef<Path>],
    left_out: LeftOut,
    options: &SourceOptions,
) -> Result<Arc<dyn CaptionSource>> {
    Ok(Arc::new(crate::ParquetSource::open(paths, options)?.with_left_out(left_out)))
}

#[cfg(not(feature = "parquet"))]
fn open_tables(
    paths: &[impl AsRef<Path>],
    _left_out: LeftOut,
    _options: &SourceOptions,
) -> Result<Arc<dyn CaptionSource>> {
    let path = paths.first().map(|path| path.as_ref().to_owned()).unwrap_or_default();
    Err(Error::ParquetNotBuilt { path })
}

fn is_metadata(path: &Path) -> bool {
    path.file_name().is_some_and(|name| selection::is_metadata(&name.to_string_lossy()))
}

/// Whether a file is one of the Arrow files of a saved dataset: one that `state.json` beside it names, or any
/// if there is no such file. Other Arrow files are caches of `datasets`.
fn is_saved_table(file: &Path) -> bool {
    let Some(name) = file.file_name().filter(|_| has_extension(file, &["arrow"])) else { return false };
    let state = fs::read(file.with_file_name("state.json")).ok();
    let state: Option<serde_json::Value> = state.and_then(|state| serde_json::from_slice(&state).ok());
    match state.as_ref().and_then(|state| state["_data_files"].as_array()) {
        Some(files) => files.iter().any(|file| file["filename"].as_str().is_some_and(|file| name == file)),
        None => true,
    }
}
