use std::path::PathBuf;
use std::sync::Arc;

use caption_data::{LeftOut, RemoteFile};

/// A folder with the files of a model or an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The folder.
    pub folder: PathBuf,
    /// The commit of the files: that of the requested branch or tag at this time.
    pub commit: String,
    /// Why the hub could not be reached, if the files are therefore those of the cache.
    pub outage: Option<String>,
}

/// A dataset's train split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDataset {
    /// Its files.
    pub files: DatasetFiles,
    /// The commit of the files. If the hub converted the dataset to parquet, it is a commit of the branch
    /// that holds the result.
    pub commit: String,
    /// The repository's files that are not downloaded, as they do not belong to the train split. Files that are
    /// in the folder of images for another reason are not among them.
    pub left_out: LeftOut,
    /// Whether all files of the repository are known. If not, `left_out` has only files in the cache.
    pub is_whole: bool,
    /// Why the hub could not be reached, if the files are therefore those of the cache.
    pub outage: Option<String>,
}

/// The files of a dataset's train split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatasetFiles {
    /// Parquet files, sorted by name: the rows of each file follow those of the file before it.
    Parquet(Vec<PathBuf>),
    /// Tar files in the layout of WebDataset, sorted by name.
    Tar(Vec<PathBuf>),
    /// A folder of images with their captions in metadata or in text files of the same name.
    ImageFolder(PathBuf),
}

/// A dataset's train split in parquet files, parts of which are fetched when they are needed.
#[derive(Debug, Clone)]
pub struct PiecewiseDataset {
    /// Its files, sorted by name.
    pub files: Vec<Arc<dyn RemoteFile>>,
    /// The commit of the files, as of a [`FetchedDataset`].
    pub commit: String,
    /// The repository's files that do not belong to the train split.
    pub left_out: LeftOut,
}
