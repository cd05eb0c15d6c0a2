//! The files of one revision of a repository: which there are, and their bytes in the cache.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    thread,
    time::Duration,
};

use hf_hub::{
    Cache,
    api::sync::{Api, ApiError},
};
use indicatif::ProgressBar;

use super::{
    Error, Hub, Repository, Result,
    watch::{Watched, watch},
};

/// How often a download that was cut is taken up again, and how long the first pause is; each further one is doubled.
const RETRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// The names of the files that a revision holds; offline, of those in the cache.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) repo: Repository,
    pub(super) names: Vec<String>,
    pub(super) offline: bool,
}

/// One revision of a repository.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    hub: &'a Hub,
    pub(super) listing: Listing,
    /// Where the cache keeps, or will keep, the files.
    folder: PathBuf,
}

impl Hub {
    /// Lists a revision's files: online as the hub tells them, offline as the cache has them.
    pub(super) fn snapshot(&self, repo: &Repository) -> Result<Snapshot<'_>> {
        let Some(api) = &self.api else { return self.cached(repo) };
        let (api, remote) = (api.clone(), repo.repo());
        let info = watch(self.config.timeout, move |_| api.repo(remote).info())
            .ok_or_else(|| self.stalled(repo, None))?
            .map_err(|e| self.explain(repo, None, e))?;
        // A name such as `../x` would be written outside the cache.
        let is_inside =
            |name: &String| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        let names = info.siblings.into_iter().map(|file| file.rfilename).filter(is_inside).collect();
        let folder = self.cache().repo(repo.repo()).pointer_path(&info.sha);
        Ok(Snapshot { hub: self, listing: Listing { repo: repo.clone(), names, offline: false }, folder })
    }

    fn cached(&self, repo: &Repository) -> Result<Snapshot<'_>> {
        let root = self.repo_folder(repo);
        // A branch or tag points to its commit; a commit stands for itself.
        let commit = fs::read_to_string(root.join("refs").join(repo.revision()))
            .unwrap_or_else(|_| repo.revision().into());
        let folder = root.join("snapshots").join(commit.trim());
        if !folder.is_dir() {
            return Err(Error::NotCached { repo: repo.clone(), cache: self.config.cache.clone() });
        }
        let mut names = Vec::new();
        walk(&folder, Path::new(""), &mut names)
            .map_err(|source| Error::Cache { path: folder.clone(), source })?;
        Ok(Snapshot { hub: self, listing: Listing { repo: repo.clone(), names, offline: true }, folder })
    }

    fn cache(&self) -> Cache {
        Cache::new(self.config.cache.clone())
    }

    fn repo_folder(&self, repo: &Repository) -> PathBuf {
        self.config.cache.join(repo.repo().folder_name())
    }

    fn stalled(&self, repo: &Repository, file: Option<&str>) -> Error {
        let (endpoint, timeout) = (self.config.endpoint.clone(), self.config.timeout);
        Error::Stalled { repo: repo.clone(), file: file.map(str::to_owned), endpoint, timeout }
    }

    /// Makes of the client's error one that says what to do.
    fn explain(&self, repo: &Repository, file: Option<&str>, error: ApiError) -> Error {
        let (repo, file, endpoint) = (repo.clone(), file.map(str::to_owned), self.config.endpoint.clone());
        if let Some(status) = status(&error) {
            return Error::Refused { repo, file, endpoint, status, with_token: self.config.token.is_some() };
        }
        let source = Box::new(error);
        if is_unreachable(&source) {
            let cached = self.cached(&repo).is_ok();
            return Error::Unreachable { repo, endpoint, cached, source };
        }
        Error::Transfer { repo, file, endpoint, source }
    }
}

impl Snapshot<'_> {
    /// Downloads the named files, in their order, unless the cache has them. Returns the folder that holds them.
    pub(super) fn fetch(&self, names: &[String]) -> Result<PathBuf> {
        let Some(api) = &self.hub.api else { return Ok(self.folder.clone()) };
        let repo = &self.listing.repo;
        let mut roots = BTreeSet::new();
        for name in names {
            let mut path = self.folder.join(name);
            if !path.exists() {
                path = self.download(api, name)?;
            }
            roots.extend(path.ancestors().nth(Path::new(name).components().count()).map(Path::to_owned));
        }
        // Files of two commits lie in two folders.
        let (Some(root), None) = (roots.pop_first(), roots.pop_first()) else {
            return Err(Error::Changed { repo: repo.clone() });
        };
        // When every file was there already, the branch may still point to an older commit.
        if let Some(commit) = root.file_name().and_then(|name| name.to_str()) {
            let cache = self.hub.cache().repo(repo.repo());
            cache
                .create_ref(commit)
                .map_err(|source| Error::Cache { path: self.hub.repo_folder(repo), source })?;
        }
        Ok(root)
    }

    /// Each call of the client goes on from the bytes that are there. Its own retries would not do: after a resumed
    /// download fails before its first byte, they begin again at zero and append to what is there.
    fn download(&self, api: &Api, name: &str) -> Result<PathBuf> {
        let explain = |error| self.hub.explain(&self.listing.repo, Some(name), error);
        for retry in 0..RETRIES {
            match self.attempt(api, name)? {
                Err(error) if is_stale(&error) => self.remove_partial(api, name).map_err(explain)?,
                Err(error) if is_passing(&error) => thread::sleep(PAUSE * 2u32.pow(retry)),
                done => return done.map_err(explain),
            }
        }
        self.attempt(api, name)?.map_err(explain)
    }

    /// One call of the client; the outer error is that nothing was heard of it.
    fn attempt(&self, api: &Api, name: &str) -> Result<Result<PathBuf, ApiError>> {
        let (api, repo, file) = (api.clone(), self.listing.repo.repo(), name.to_owned());
        let bar = self.hub.config.progress.then(|| ProgressBar::new(0));
        watch(self.hub.config.timeout, move |signs| {
            api.repo(repo).download_with_progress(&file, Watched { bar, signs })
        })
        .ok_or_else(|| self.hub.stalled(&self.listing.repo, Some(name)))
    }

    fn remove_partial(&self, api: &Api, name: &str) -> Result<(), ApiError> {
        let etag = api.metadata(&api.repo(self.listing.repo.repo()).url(name))?.etag().to_owned();
        let blob = self.hub.repo_folder(&self.listing.repo).join("blobs").join(etag);
        Ok(fs::remove_file(blob.with_extension("part"))?)
    }
}

/// All files below a folder, by their path from there.
fn walk(root: &Path, below: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let path = below.join(entry?.file_name());
        // Follows the links that the cache is made of; one that leads nowhere is a file that is not there.
        let target = root.join(&path);
        if target.is_dir() {
            walk(root, &path, names)?;
        } else if target.exists() {
            let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
    names.sort();
    Ok(())
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

fn is_unreachable(error: &ApiError) -> bool {
    use ureq::Error as E;
    let ApiError::RequestError(error) = error else { return false };
    matches!(
        **error,
        E::Io(_)
            | E::HostNotFound
            | E::ConnectionFailed
            | E::Timeout(_)
            | E::Tls(_)
            | E::InvalidProxyUrl
            | E::ConnectProxyFailed(_)
    )
}

/// The partial download has all its bytes, or more: its process ended before the last step, or the file changed.
fn is_stale(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// Errors that another attempt may not meet.
fn is_passing(error: &ApiError) -> bool {
    use io::ErrorKind as K;
    let cut = |e: &io::Error| {
        matches!(
            e.kind(),
            K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::TimedOut
        )
    };
    match error {
        ApiError::IoError(error) => cut(error),
        ApiError::RequestError(error) => match &**error {
            ureq::Error::StatusCode(status) => *status == 429 || *status >= 500,
            ureq::Error::Io(error) => cut(error),
            ureq::Error::Timeout(_) => true,
            _ => false,
        },
        _ => false,
    }
}
