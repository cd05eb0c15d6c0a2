//! Replaces access to the hub in a build without the feature `hub`.

use std::path::PathBuf;

use super::{Error, Fetched, FetchedDataset, PiecewiseDataset, RepoId, Result};

/// A connection to the hub, which this build does not have.
pub enum Hub {}

impl Hub {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::NotBuilt`].
    pub fn from_env() -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// The folder of a checkpoint.
    ///
    /// # Errors
    /// None, as there is no connection.
    pub fn model_dir(&self, _id: &RepoId) -> Result<Fetched> {
        match *self {}
    }

    /// The folder of a LoRA adapter.
    ///
    /// # Errors
    /// None, as there is no connection.
    pub fn adapter_dir(&self, _id: &RepoId) -> Result<Fetched> {
        match *self {}
    }

    /// The train split of a dataset, in pieces.
    ///
    /// # Errors
    /// None, as there is no connection.
    pub fn dataset_pieces(self, _id: &RepoId, _limit: u64) -> Result<Option<PiecewiseDataset>> {
        match self {}
    }

    /// The train split of a dataset.
    ///
    /// # Errors
    /// None, as there is no connection.
    pub fn dataset_files(&self, _id: &RepoId) -> Result<FetchedDataset> {
        match *self {}
    }
}

/// The first damaged file among downloaded ones: none, as this build downloads nothing.
pub fn damaged(_files: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    None
}
