use std::{fmt, fs, sync::Arc};

use caption_data::{LeftOut, RemoteFile};

use super::{
    DatasetFiles, Error, Fetched, FetchedDataset, HubConfig, Kind, PiecewiseDataset, RepoId, Repository,
    Result,
    http::Http,
    outage::outage,
    piece_cache::PieceCache,
    pieces::{PiecewiseFile, fetched_ahead},
    select,
    snapshot::{Listing, Snapshot},
};

/// The branch in which the hub keeps a parquet copy of datasets that came in another format.
const CONVERTED: &str = "refs/convert/parquet";

/// A connection to the hub; offline, to its cache only.
pub struct Hub {
    pub(super) config: HubConfig,
    /// None when offline.
    pub(super) http: Option<Http>,
}

impl Hub {
    /// A hub configured from the environment: see [`HubConfig`].
    ///
    /// # Errors
    /// As [`HubConfig::from_env`].
    pub fn from_env() -> Result<Self> {
        Self::new(HubConfig::from_env()?)
    }

    /// A hub with an explicit configuration. Does not access the network yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`].
    pub fn new(config: HubConfig) -> Result<Self> {
        let http = if config.offline { None } else { Some(Http::new(&config)?) };
        Ok(Self { config, http })
    }

    /// The folder of a checkpoint: config.json, the weights, and those files of the tokenizer, the processor
    /// and generation that the repository has. Safetensors are preferred to pytorch_model.bin. If the hub
    /// cannot be reached, the files come from the cache, provided that it has all of them. A full commit hash
    /// whose files are cached is resolved without the network.
    ///
    /// # Errors
    /// If the repository can neither be reached nor be found in the cache, or is not a checkpoint
    /// ([`Error::Lacks`], [`Error::IsAdapter`]).
    pub fn model_dir(&self, id: &RepoId) -> Result<Fetched> {
        self.folder(&Repository::new(Kind::Model, id), select::model_files)
    }

    /// The folder of a LoRA adapter: adapter_config.json with adapter_model.safetensors or else adapter_model.bin.
    ///
    /// # Errors
    /// As [`Hub::model_dir`].
    pub fn adapter_dir(&self, id: &RepoId) -> Result<Fetched> {
        self.folder(&Repository::new(Kind::Adapter, id), select::adapter_files)
    }

    /// The files of the train split of a dataset, of the first kind that exists: its parquet files, the hub's
    /// conversion to parquet, its tar files, its images with their captions. If the id names another split, its
    /// parquet or tar files.
    ///
    /// # Errors
    /// As [`Hub::model_dir`]; also [`Error::SeveralConfigurations`], [`Error::PartlyConverted`] and [`Error::NoSplit`].
    pub fn dataset_files(&self, id: &RepoId) -> Result<FetchedDataset> {
        self.or_cached(|hub, outage| Ok(FetchedDataset { outage, ..hub.dataset(id)? }))
    }

    /// As [`dataset_files`](Self::dataset_files), without a download. Pieces of the files are fetched when they
    /// are read, and the following pieces in advance. They are kept in a part of the cache that takes at most
    /// `limit` bytes. A larger dataset is fetched again in each epoch. `None` if the dataset is not in parquet
    /// files, if the cache has all of them completely, or offline.
    ///
    /// # Errors
    /// As [`dataset_files`](Self::dataset_files).
    pub fn dataset_pieces(self, id: &RepoId, limit: u64) -> Result<Option<PiecewiseDataset>> {
        let hub = Arc::new(self);
        if hub.http.is_none() {
            return Ok(None);
        }
        let mut snapshot = hub.snapshot(&Repository::new(Kind::Dataset, id))?;
        let mut names = select::parquet_files(&snapshot.listing)?;
        if names.is_none()
            && id.revision.is_none()
            && !select::has_text_files(&snapshot.listing)
            && let Some(converted) = hub.converted(id)?
            && select::converted_part(&converted.listing).is_none()
        {
            names = select::parquet_files(&converted.listing)?;
            snapshot = converted;
        }
        let Some(mut names) = names.filter(|names| !snapshot.has(names)) else { return Ok(None) };
        let left_out = select::left_out_by_parquet_files(&snapshot.listing, &names);
        names.sort();
        let cache = Arc::new(PieceCache::new(&hub.config.cache, limit));
        let ahead =
            fetched_ahead().map_err(|cause| Error::Cache { path: hub.config.cache.clone(), cause })?;
        let file = |name: &String| -> Result<Arc<dyn RemoteFile>> {
            let source = snapshot.in_pieces(&hub, name, &cache)?;
            Ok(Arc::new(PiecewiseFile::new(source, ahead.clone())))
        };
        let files = names.iter().map(file).collect::<Result<Vec<_>>>()?;
        Ok(Some(PiecewiseDataset { files, commit: snapshot.commit.clone(), left_out }))
    }

    fn dataset(&self, id: &RepoId) -> Result<FetchedDataset> {
        let main = match self.snapshot(&Repository::new(Kind::Dataset, id)) {
            // The cache may have only the converted files.
            Err(error @ Error::NotCached { .. }) => Err(error),
            main => Ok(main?),
        };
        if let Ok(main) = &main
            && let Some(parquet) = parquet(main)?
        {
            return Ok(parquet);
        }
        // The hub converts pictures and metadata, but omits captions in other files.
        let has_other_captions = match &main {
            Ok(main) => select::has_text_files(&main.listing) || has_json_metadata(main)?,
            Err(_) => false,
        };
        let mut part = None;
        if id.revision.is_none()
            && !has_other_captions
            && let Some(converted) = self.converted(id)?
        {
            part = select::converted_part(&converted.listing);
            if part.is_none()
                && let Some(parquet) = parquet(&converted)?
            {
                return Ok(parquet);
            }
        }
        let main = main?;
        if let Some(mut names) = select::tar_files(&main.listing)? {
            let folder = main.fetch(&names)?;
            names.sort();
            let files = DatasetFiles::Tar(names.iter().map(|name| folder.join(name)).collect());
            let is_whole = main.listing.is_whole;
            let left_out = LeftOut::default();
            return Ok(FetchedDataset { files, commit: main.commit, left_out, is_whole, outage: None });
        }
        if let Some(split) = &id.split {
            let (repo, split) = (Box::new(main.listing.repo.clone()), split.clone());
            return Err(Error::NoSplit { repo, split, splits: Vec::new() });
        }
        let names = match (select::image_folder(&main.listing), part) {
            (Err(Error::Lacks { repo, .. }), Some(part)) => {
                return Err(Error::PartlyConverted { repo: *repo, part, revision: CONVERTED });
            }
            (names, _) => names?,
        };
        let folder = main.fetch(&names)?;
        let left_out = select::left_out_by_image_folder(&main.listing, |name| folder.join(name).exists());
        let is_whole = main.listing.is_whole;
        let files = DatasetFiles::ImageFolder(folder);
        Ok(FetchedDataset { files, commit: main.commit, left_out, is_whole, outage: None })
    }

    /// The hub's parquet conversion of a dataset, if there is one.
    fn converted(&self, id: &RepoId) -> Result<Option<Snapshot<'_>>> {
        let converted = RepoId { revision: Some(CONVERTED.into()), ..id.clone() };
        match self.snapshot(&Repository::new(Kind::Dataset, &converted)) {
            Err(Error::NotCached { .. }) => Ok(None),
            Err(Error::Refused(refusal)) if refusal.status == 404 => Ok(None),
            converted => converted.map(Some),
        }
    }

    fn folder(&self, repo: &Repository, choose: impl Fn(&Listing) -> Result<Vec<String>>) -> Result<Fetched> {
        if repo.id.split.is_some() {
            return Err(Error::SplitOfModel { repo: repo.clone() });
        }
        self.or_cached(|hub, outage| {
            let snapshot = hub.snapshot(repo)?;
            let folder = snapshot.fetch(&choose(&snapshot.listing)?)?;
            Ok(Fetched { folder, commit: snapshot.commit, outage })
        })
    }

    /// Looks something up on the hub, or in the cache if the hub cannot be reached. `look_up` gets the reason
    /// why it could not.
    fn or_cached<T>(&self, look_up: impl Fn(&Self, Option<String>) -> Result<T>) -> Result<T> {
        let error = match look_up(self, None) {
            Err(error) if self.http.is_some() => error,
            result => return result,
        };
        let Some(outage) = outage(&error) else { return Err(error) };
        let cache = Self { config: self.config.clone(), http: None };
        look_up(&cache, Some(outage)).map_err(|_| error)
    }
}

/// Not derived, because the client contains the token.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.config).finish()
    }
}

/// The train split's parquet files in a snapshot; `None` if it has no parquet file.
fn parquet(snapshot: &Snapshot<'_>) -> Result<Option<FetchedDataset>> {
    let Some(names) = select::parquet_files(&snapshot.listing)? else { return Ok(None) };
    let folder = snapshot.fetch(&names)?;
    let mut files: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
    files.sort();
    let left_out = select::left_out_by_parquet_files(&snapshot.listing, &names);
    let (commit, is_whole) = (snapshot.commit.clone(), snapshot.listing.is_whole);
    let files = DatasetFiles::Parquet(files);
    Ok(Some(FetchedDataset { files, commit, left_out, is_whole, outage: None }))
}

/// Whether a file `metadata.json` describes pictures: it contains an array. Other programs write objects to
/// files of this name.
fn has_json_metadata(main: &Snapshot<'_>) -> Result<bool> {
    let names = select::json_metadata(&main.listing);
    let folder = main.get(&names)?;
    let is_array = |name: &String| {
        let bytes = fs::read(folder.join(name)).unwrap_or_default();
        bytes.iter().find(|byte| byte.is_ascii_graphic()) == Some(&b'[')
    };
    Ok(names.iter().any(is_array))
}
