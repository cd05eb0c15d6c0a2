//! The files of one revision of a repository: their list, and their bytes in the cache.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use ureq::http::Uri;

use super::address::{masked, shown};
use super::cache::{self, RepoCache, is_read_only};
use super::download::{RemoteFile, content_range};
use super::failure::{Failure, cut, retried};
use super::http::Http;
use super::piece_cache::PieceCache;
use super::pieces::Source;
use super::{Error, Hub, Refusal, Repository, Result};
use crate::files::LFS_POINTER;

/// The names of the files in a revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) repo: Repository,
    pub(super) names: Vec<String>,
    pub(super) offline: bool,
    /// Whether all files of the hub are listed. Offline, the list may have only those in the cache.
    pub(super) is_whole: bool,
}

/// One revision of a repository.
pub(super) struct Snapshot<'a> {
    hub: &'a Hub,
    pub(super) listing: Listing,
    /// The commit of the revision.
    pub(super) commit: String,
    cache: RepoCache,
}

/// The hub's description of a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// Lists the files of a revision. The list is requested from the hub, unless it is recorded in the cache
    /// and cannot have changed. Offline, the files in the cache are listed if no list is recorded.
    pub(super) fn snapshot(&self, repo: &Repository) -> Result<Snapshot<'_>> {
        let Some(http) = &self.http else { return self.cached(repo) };
        let cache = RepoCache::new(&self.config.cache, repo);
        if let Some(commit) = repo.pinned_commit()
            && let Some(names) = cache.listing(commit)
        {
            let listing = Listing { repo: repo.clone(), names, offline: false, is_whole: true };
            return Ok(Snapshot { hub: self, listing, commit: commit.to_owned(), cache });
        }
        let info = retried(|| self.info(http, repo)).map_err(|failure| self.explain(repo, None, failure))?;
        // A name such as `../x` would be written outside the cache.
        let is_inside =
            |name: &String| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        let names = info.siblings.into_iter().map(|file| file.rfilename).filter(is_inside).collect();
        let listing = Listing { repo: repo.clone(), names, offline: false, is_whole: true };
        Ok(Snapshot { hub: self, listing, commit: info.sha, cache })
    }

    fn info(&self, http: &Http, repo: &Repository) -> Result<Info, Failure> {
        let url = self.address(&repo.info_path())?;
        let reply = http.get(&url, None)?;
        let mut text = Vec::new();
        let url = reply.url.clone();
        reply.reader()?.read_to_end(&mut text).map_err(|error| cut(&url, error))?;
        let info: Info = serde_json::from_slice(&text).map_err(|error| Failure::NotAHub {
            url: shown(&url),
            problem: format!("no list of files came: {error}"),
        })?;
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(Failure::NotAHub {
                url: shown(&url),
                problem: format!("`{}` is not a commit", info.sha),
            });
        }
        Ok(info)
    }

    fn cached(&self, repo: &Repository) -> Result<Snapshot<'_>> {
        let cache = RepoCache::new(&self.config.cache, repo);
        let commit = cache.commit(repo.revision());
        let folder = cache.snapshot(&commit);
        if !folder.is_dir() {
            let beside = std::env::current_dir().unwrap_or_else(|_| ".".into()).into();
            let (repo, revisions) = (Box::new(repo.clone()), cache.revisions());
            let cache = self.config.cache.clone().into();
            return Err(Error::NotCached { repo, cache, beside, revisions });
        }
        let recorded = cache.listing(&commit);
        let is_whole = recorded.is_some();
        let names = match recorded {
            Some(names) => names,
            None => cache::files(&folder).map_err(|cause| Error::Cache { path: folder, cause })?,
        };
        let listing = Listing { repo: repo.clone(), names, offline: true, is_whole };
        Ok(Snapshot { hub: self, listing, commit, cache })
    }

    fn address(&self, path: &str) -> Result<Uri, Failure> {
        let address = |endpoint: &str| format!("{endpoint}/{path}");
        address(&self.config.endpoint).parse().map_err(|_| Failure::NotAHub {
            url: address(&masked(&self.config.endpoint)).into(),
            problem: "it is not a web address".into(),
        })
    }

    /// Turns a failure into an error with the requested repository and file, and advice.
    pub(super) fn explain(&self, repo: &Repository, file: Option<&str>, failure: Failure) -> Error {
        let (repo, file, endpoint) =
            (Box::new(repo.clone()), file.map(str::to_owned), masked(&self.config.endpoint));
        let with_token = self.config.token.is_some();
        match failure {
            Failure::Refused { url, is_hub, status, code, wait } => Error::Refused(Box::new(Refusal {
                repo: *repo,
                file,
                url,
                endpoint,
                is_hub,
                status,
                code,
                wait,
                with_token,
            })),
            Failure::Unreachable { url, proxy, source } => {
                // If the list of files cannot be downloaded, the cache is tried before the error is shown.
                let cached = file.is_some() && self.cached(&repo).is_ok();
                let cache = self.config.cache.clone().into();
                Error::Unreachable { repo, file, url, proxy, cached, cache, cause: source }
            }
            Failure::Silent { url } => Error::Stalled { repo, file, url, timeout: self.config.timeout },
            Failure::Cut { url, source } => Error::Cut { repo, file, url, cause: source },
            Failure::Altered { url, found, stated } => Error::Altered { repo, file, url, found, stated },
            Failure::NotAHub { url, problem } => Error::NotAHub { repo, file, url, problem: problem.into() },
            Failure::Disk { path, source } if is_read_only(&source) => {
                Error::ReadOnlyCache { repo, file, path, cause: source }
            }
            Failure::Disk { path, source } => Error::Cache { path, cause: source },
        }
    }
}

impl Snapshot<'_> {
    /// Downloads all files that are needed, as [`get`](Self::get) does, and records that the cache has them.
    pub(super) fn fetch(&self, names: &[String]) -> Result<PathBuf> {
        let folder = self.get(names)?;
        // Last, so that offline no branch refers to a commit whose files are incomplete.
        if !self.listing.offline {
            let repo = &self.listing.repo;
            let listed = self.cache.set_listing(&self.commit, &self.listing.names);
            let noted = listed.and_then(|()| self.cache.set_ref(repo.revision(), &self.commit));
            noted.map_err(|failure| self.hub.explain(repo, None, failure))?;
        }
        Ok(folder)
    }

    /// Downloads the named files in order, unless the cache has them. Returns their folder.
    pub(super) fn get(&self, names: &[String]) -> Result<PathBuf> {
        let folder = self.cache.snapshot(&self.commit);
        let repo = &self.listing.repo;
        for name in names {
            let path = folder.join(name);
            if !path.exists() {
                let Some(http) = &self.hub.http else { return Err(self.not_all_cached(&folder, names)) };
                self.download(http, name).map_err(|failure| self.hub.explain(repo, Some(name), failure))?;
            }
            if is_lfs_pointer(&path) {
                return Err(Error::LfsPointer { repo: Box::new(repo.clone()), file: name.clone(), path });
            }
        }
        Ok(folder)
    }

    /// Whether the cache has all of the named files completely.
    pub(super) fn has(&self, names: &[String]) -> bool {
        let folder = self.cache.snapshot(&self.commit);
        names.iter().all(|name| folder.join(name).exists())
    }

    /// The named file, to be read in pieces. Only its size is requested now.
    pub(super) fn in_pieces(&self, hub: &Arc<Hub>, name: &str, pieces: &Arc<PieceCache>) -> Result<Source> {
        let repo = &self.listing.repo;
        let find = || -> Result<Source, Failure> {
            let url = hub.address(&repo.file_path(&self.commit, name))?;
            let Some(http) = &hub.http else { return Err(Failure::Silent { url: shown(&url) }) };
            let facts = retried(|| RemoteFile { http, url: url.clone(), name, progress: false }.facts())?;
            let size = match facts.size {
                Some(size) => size,
                None => stated_size(http, &url)?,
            };
            Ok(Source {
                hub: Arc::clone(hub),
                repo: repo.clone(),
                name: name.to_owned(),
                path: Path::new(&repo.id.name).join(name),
                url,
                size,
                folder: self.cache.pieces(&facts.etag),
                cache: Arc::clone(pieces),
            })
        };
        find().map_err(|failure| hub.explain(repo, Some(name), failure))
    }

    fn not_all_cached(&self, folder: &Path, names: &[String]) -> Error {
        let missing = names.iter().filter(|name| !folder.join(name).exists()).cloned().collect();
        Error::NotAllCached { repo: self.listing.repo.clone(), missing, total: names.len() }
    }

    fn download(&self, http: &Http, name: &str) -> Result<(), Failure> {
        let url = self.hub.address(&self.listing.repo.file_path(&self.commit, name))?;
        RemoteFile { http, url, name, progress: self.hub.config.progress }.fetch(&self.cache, &self.commit)
    }
}

/// The size of a file, from the response to a request of its first byte.
fn stated_size(http: &Http, url: &Uri) -> Result<u64, Failure> {
    let reply = retried(|| http.get(url, Some("bytes=0-0")))?;
    let total = reply.header("Content-Range").and_then(content_range).and_then(|(_, total)| total);
    total.ok_or_else(|| {
        reply.strange("it does not say how large the file is, which --data-cache needs".into())
    })
}

/// Whether a file is a Git LFS pointer.
fn is_lfs_pointer(path: &Path) -> bool {
    let mut start = [0; LFS_POINTER.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == LFS_POINTER
}
