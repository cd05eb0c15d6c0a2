use std::{fmt, path::PathBuf};

use hf_hub::{
    Cache,
    api::sync::{Api, ApiBuilder},
};

use super::{
    Error, HubConfig, Kind, RepoId, Repository, Result, select,
    snapshot::{Listing, Snapshot},
};

/// The branch in which the hub keeps a parquet copy of datasets that came in another format.
const CONVERTED: &str = "refs/convert/parquet";

/// A connection to the hub, or to its cache alone when offline.
pub struct Hub {
    pub(super) config: HubConfig,
    /// None when offline.
    pub(super) api: Option<Api>,
}

/// The files of a dataset's train split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatasetFiles {
    /// Parquet files, in the order of their names: rows follow each other from file to file.
    Parquet(Vec<PathBuf>),
    /// A folder of images with their captions in metadata.jsonl, metadata.csv or same-name .txt files.
    ImageFolder(PathBuf),
}

impl Hub {
    /// A hub as the environment describes it: see [`HubConfig`].
    ///
    /// # Errors
    /// As [`HubConfig::from_env`].
    pub fn from_env() -> Result<Self> {
        Self::new(HubConfig::from_env()?)
    }

    /// A hub with an explicit configuration. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// [`Error::Client`] when the HTTP client cannot be set up.
    pub fn new(config: HubConfig) -> Result<Self> {
        if config.offline {
            return Ok(Self { config, api: None });
        }
        let api = ApiBuilder::from_cache(Cache::new(config.cache.clone()))
            .with_endpoint(config.endpoint.clone())
            .with_token(config.token.clone())
            .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|source| Error::Client { source: source.into() })?;
        Ok(Self { config, api: Some(api) })
    }

    /// The folder of a checkpoint: config.json, the tokenizer, the weights, and the other configuration files that the
    /// repository has. Safetensors are taken before pytorch_model.bin.
    ///
    /// # Errors
    /// Every variant of [`Error`] but the first three; [`Error::Lacks`] names what is no checkpoint.
    pub fn model_dir(&self, id: &RepoId) -> Result<PathBuf> {
        self.folder(&Repository::new(Kind::Model, id), select::model_files)
    }

    /// The folder of a LoRA adapter: adapter_config.json and adapter_model.safetensors.
    ///
    /// # Errors
    /// As [`Hub::model_dir`].
    pub fn adapter_dir(&self, id: &RepoId) -> Result<PathBuf> {
        self.folder(&Repository::new(Kind::Adapter, id), select::adapter_files)
    }

    /// The train split of a dataset: its parquet files, else those that the hub converted it to, else its images with
    /// their captions.
    ///
    /// # Errors
    /// As [`Hub::model_dir`]; also [`Error::SeveralConfigurations`].
    pub fn dataset_files(&self, id: &RepoId) -> Result<DatasetFiles> {
        let main = match self.snapshot(&Repository::new(Kind::Dataset, id)) {
            // The cache may have the converted files alone.
            Err(error @ Error::NotCached { .. }) => Err(error),
            main => Ok(main?),
        };
        if let Ok(main) = &main
            && let Some(files) = parquet(main)?
        {
            return Ok(DatasetFiles::Parquet(files));
        }
        if id.revision.is_none() {
            let converted = RepoId { revision: Some(CONVERTED.into()), ..id.clone() };
            match self.snapshot(&Repository::new(Kind::Dataset, &converted)) {
                Err(Error::NotCached { .. } | Error::Refused { status: 404, .. }) => {}
                converted => {
                    if let Some(files) = parquet(&converted?)? {
                        return Ok(DatasetFiles::Parquet(files));
                    }
                }
            }
        }
        let main = main?;
        let (folder, names) = select::image_folder(&main.listing)?;
        Ok(DatasetFiles::ImageFolder(main.fetch(&names)?.join(folder)))
    }

    fn folder(&self, repo: &Repository, choose: impl Fn(&Listing) -> Result<Vec<String>>) -> Result<PathBuf> {
        let snapshot = self.snapshot(repo)?;
        snapshot.fetch(&choose(&snapshot.listing)?)
    }
}

/// By hand, because the client would show the token that it sends.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.config).finish()
    }
}

/// The train split's parquet files in a snapshot; `None` if it has no parquet file.
fn parquet(snapshot: &Snapshot<'_>) -> Result<Option<Vec<PathBuf>>> {
    let Some(names) = select::parquet_files(&snapshot.listing)? else { return Ok(None) };
    let folder = snapshot.fetch(&names)?;
    let mut files: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
    files.sort();
    Ok(Some(files))
}
