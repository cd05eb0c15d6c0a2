use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{CaptionSource, Error, ImageDecoder, ImageFolder, ParquetSource, Result};

/// How a dataset on disk is read.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// The column of a parquet file that holds the pictures. The default is `image`.
    pub image_column: String,
    /// The column of a parquet or metadata file that holds the captions. The default is `text`.
    pub caption_column: String,
    /// What reads the pictures.
    pub decoder: ImageDecoder,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            image_column: "image".to_owned(),
            caption_column: "text".to_owned(),
            decoder: ImageDecoder::default(),
        }
    }
}

/// Opens a dataset by what lies at `path`:
///
/// - a parquet file: [`ParquetSource`];
/// - a folder with a `metadata.jsonl` or `metadata.csv`: [`ImageFolder`];
/// - a folder with parquet files, at any depth: [`ParquetSource`] of them in the order of their paths. Where
///   some belong to a training split (`train-00000-of-00002.parquet`, `train/0000.parquet`), the others are
///   left out: this is how a dataset of the Hugging Face hub lies on disk;
/// - any other folder: [`ImageFolder`] of pictures with `.txt` captions.
///
/// # Errors
/// If nothing is there that can be read, or as [`ParquetSource::open`] and [`ImageFolder::open`].
pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Arc<dyn CaptionSource>> {
    let path = path.as_ref();
    let kind = fs::metadata(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    if kind.is_file() {
        if !has_extension(path, &["parquet"]) {
            let why = "it is neither a parquet file nor a folder".to_owned();
            return Err(Error::NoRows { dataset: path.display().to_string(), why });
        }
        return Ok(Arc::new(ParquetSource::open(&[path], options)?));
    }
    let files = walk(path)?;
    let parquet: Vec<&PathBuf> = files.iter().filter(|file| has_extension(file, &["parquet"])).collect();
    if parquet.is_empty() || files.iter().any(|file| is_metadata(file)) {
        return Ok(Arc::new(ImageFolder::open(path, options)?));
    }
    let train: Vec<&PathBuf> = parquet.iter().copied().filter(|file| is_training_split(path, file)).collect();
    Ok(Arc::new(ParquetSource::open(if train.is_empty() { &parquet } else { &train }, options)?))
}

fn is_training_split(root: &Path, file: &Path) -> bool {
    let inside = file.strip_prefix(root).unwrap_or(file);
    inside.iter().any(|part| part.to_string_lossy().split(['-', '.', '_']).next() == Some("train"))
}

/// Whether a file describes the pictures of its folder.
pub(crate) fn is_metadata(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "metadata.jsonl" || name == "metadata.csv")
}

pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

/// All files under a folder but hidden ones, in the order of their paths.
pub(crate) fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk_into(folder, MAX_DEPTH, &mut files)?;
    files.sort();
    Ok(files)
}

/// Deeper folders are a loop of links.
const MAX_DEPTH: usize = 16;

fn walk_into(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    };
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Follows links: the hub's cache holds links to files.
        if fs::metadata(&path).map_err(at(&path))?.is_file() {
            files.push(path);
        } else if depth > 0 {
            walk_into(&path, depth - 1, files)?;
        }
    }
    Ok(())
}
