use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{CaptionSource, Error, ImageDecoder, ImageFolder, ParquetSource, Result, selection};

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
        if !has_extension(path, &["parquet"]) {
            let why = "it is neither a parquet file nor a folder".to_owned();
            return Err(Error::NoRows { dataset: path.display().to_string(), why });
        }
        return Ok(Arc::new(ParquetSource::open(&[path], options)?));
    }
    let files = walk(path)?;
    let names: Vec<String> = files.iter().map(|file| name_in(path, file)).collect();
    let parquet: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| selection::extension(name) == "parquet").collect();
    if parquet.is_empty() {
        return Ok(Arc::new(ImageFolder::open(path, options)?));
    }
    let training = selection::parquet_files(&parquet)
        .map_err(|refusal| Error::Selection { dataset: path.display().to_string(), refusal })?;
    let is_training = |(file, name): (_, &String)| training.contains(&name.as_str()).then_some(file);
    let training: Vec<&PathBuf> = files.iter().zip(&names).filter_map(is_training).collect();
    Ok(Arc::new(ParquetSource::open(&training, options)?))
}

/// A file's path in a dataset's folder, as [`selection`] reads it.
pub(crate) fn name_in(dataset: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(dataset).unwrap_or(file);
    inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

/// All files under a folder but hidden ones, in the order of their paths.
pub(crate) fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk_into(folder, &mut Vec::new(), &mut files)?;
    files.sort();
    Ok(files)
}

/// `above` are the real paths of the folders that this one lies in: a link to one of them is a loop.
fn walk_into(folder: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    };
    let real = fs::canonicalize(folder).map_err(at(folder))?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Follows links: the hub's cache holds links to files.
        match fs::metadata(&path) {
            Ok(kind) if kind.is_dir() => walk_into(&path, above, files)?,
            Ok(_) => files.push(path),
            // A link that leads nowhere.
            Err(_) if path.is_symlink() && !is_of_a_dataset(&path) => {}
            Err(error) => return Err(at(&path)(error)),
        }
    }
    above.pop();
    Ok(())
}

/// Whether a dataset without this file would not be whole.
fn is_of_a_dataset(path: &Path) -> bool {
    let name = path.to_string_lossy();
    selection::is_picture(&name) || selection::is_metadata(&name) || has_extension(path, &["parquet", "txt"])
}
