use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::advice::{self, beside, known, list, of_file, page, place};
use super::repository::Repository;
use super::{Proxy, Refusal, location::RepoId};

/// The result of a search on the hub.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model, a dataset or an adapter could not be found, and what to do about it. A message contains the
/// text of its cause, so the cause is a field and not `source()`, which would print it twice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is neither an existing path nor a valid hub id.
    #[error(
        "`{text}` is not a file or folder{place}, and not a hub id either: give a path that exists, `embedded`, or owner/name \
         such as microsoft/git-base{hint}",
        place = beside(text, folder), hint = page(text)
    )]
    NoSuchLocation {
        /// The text that the user gave.
        text: String,
        /// The working directory, where relative paths begin.
        folder: PathBuf,
    },

    /// An empty folder has the same name as a hub repository.
    #[error(
        "`{id}` is an empty folder in {folder}, and a folder comes before a repository of the hub with the same name: \
         remove the empty folder to use the hub's, or put the files into it",
        folder = folder.display()
    )]
    EmptyFolder {
        /// The name of both.
        id: RepoId,
        /// The working directory, where relative paths begin.
        folder: PathBuf,
    },

    /// This build has no access to the hub.
    #[error(
        "models, datasets and adapters of the hub need the feature `hub`, without which this program was built: build it with \
         `--features hub`, or give a local folder"
    )]
    NotBuilt,

    /// There is neither HF_HOME nor a home folder, so there is no place for a cache.
    #[error("no home folder is known to keep downloads in: set HF_HOME to a folder")]
    NoCacheFolder,

    /// HF_ENDPOINT is not a web address.
    #[error(
        "HF_ENDPOINT is `{endpoint}`, which is not a web address: it must be https:// or http:// and a host, such as https://huggingface.co"
    )]
    BadEndpoint {
        /// The value of HF_ENDPOINT, with its user and password masked.
        endpoint: String,
    },

    /// The access token contains characters that cannot be sent.
    #[error(
        "the access token in {origin} holds spaces, quotation marks or other characters that no token has: copy it \
         again from https://huggingface.co/settings/tokens"
    )]
    BadToken {
        /// The variable or the file that contains it.
        origin: String,
    },

    /// The hub, or a host that it redirected to, answered with an HTTP error.
    #[error("{0}")]
    Refused(Box<Refusal>),

    /// No connection to the hub, or to a host that it redirects to.
    #[error(
        "{repo}{file}: {sought}cannot reach {url}{through} ({cause}): {advice}, or pass a local folder; {cached}",
        file = of_file(file), sought = advice::sought(repo, file.as_deref()), through = advice::through(proxy.as_deref()), advice = advice::connect(proxy.as_deref()),
        cached = advice::cached(*cached, cache)
    )]
    Unreachable {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file; `None` for the repository's list of files.
        file: Option<String>,
        /// The requested address, without its query.
        url: Box<str>,
        /// The proxy that the request went through.
        proxy: Option<Box<Proxy>>,
        /// Whether the cache has another copy of the repository, which is complete.
        cached: bool,
        /// The cache.
        cache: Box<Path>,
        /// The HTTP client's error.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A server accepted the connection and did not respond.
    #[error(
        "{repo}{file}: {sought}{url} sent nothing for {seconds} s: run again to continue, give it more time with \
         HF_HUB_DOWNLOAD_TIMEOUT (in seconds), or set HF_ENDPOINT to a mirror",
        file = of_file(file), sought = advice::sought(repo, file.as_deref()), seconds = timeout.as_secs_f64()
    )]
    Stalled {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file; `None` for the repository's list of files.
        file: Option<String>,
        /// The requested address, without its query.
        url: Box<str>,
        /// The time for which the client waited.
        timeout: Duration,
    },

    /// The download was incomplete in every attempt.
    #[error(
        "{repo}{file}: the download from {url} failed several times ({cause}): run again to continue where it \
         stopped, or set HF_ENDPOINT to a mirror",
        file = of_file(file)
    )]
    Cut {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file; `None` for the repository's list of files.
        file: Option<String>,
        /// The requested address, without its query.
        url: Box<str>,
        /// The error of the last attempt.
        cause: io::Error,
    },

    /// In every attempt, the downloaded file had another size or checksum than the hub states.
    #[error(
        "{repo}{file}: {url} sent other bytes than those of the hub's file, several times: they have {found}, and the \
         hub states {stated}; a proxy or a mirror may change them: check HTTPS_PROXY and HF_ENDPOINT, and run again to \
         download the file anew",
        file = of_file(file)
    )]
    Altered {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file.
        file: Option<String>,
        /// The requested address, without its query.
        url: Box<str>,
        /// The size or the SHA-256 of the downloaded file.
        found: String,
        /// The size or the SHA-256 that the hub states.
        stated: String,
    },

    /// The server that answered is not a hub.
    #[error(
        "{repo}{file}: {sought}{url} is not what a hub answers: {problem}; check HF_ENDPOINT and the proxy (HTTPS_PROXY), or \
         pass a local folder",
        file = of_file(file), sought = advice::sought(repo, file.as_deref())
    )]
    NotAHub {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file; `None` for the repository's list of files.
        file: Option<String>,
        /// The requested address, without its query.
        url: Box<str>,
        /// The fault of the response.
        problem: Box<str>,
    },

    /// The file is a Git LFS pointer, uploaded instead of the content.
    #[error(
        "{repo}: {file} is a Git LFS pointer and not the file itself, which its owner has not uploaded: take another \
         revision or repository, or put the file there ({path}; in a git clone, `git lfs pull` fetches it)",
        path = path.display()
    )]
    LfsPointer {
        /// The requested repository.
        repo: Box<Repository>,
        /// The file's name in the repository.
        file: String,
        /// The file's path in the cache.
        path: PathBuf,
    },

    /// Offline, and the cache does not have the repository.
    #[error(
        "{repo} is not in the cache {cache}, nothing can be downloaded as HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is \
         set, and there is no such file or folder in {beside} either: check the spelling, unset the variable to \
         download it, or give a path that exists{known}",
        cache = cache.display(), beside = beside.display(), known = known(revisions)
    )]
    NotCached {
        /// The requested repository.
        repo: Box<Repository>,
        /// The cache that was searched.
        cache: Box<Path>,
        /// The working directory, where relative paths begin.
        beside: Box<Path>,
        /// The cached branches and tags of the repository.
        revisions: Vec<String>,
    },

    /// Offline, and the cache has only some of the needed files.
    #[error(
        "{repo}: only {have} of {total} needed files are {place}; not there: {missing}",
        have = total - missing.len(), place = place(true), missing = list(missing)
    )]
    NotAllCached {
        /// The requested repository.
        repo: Repository,
        /// The missing files.
        missing: Vec<String>,
        /// The number of needed files.
        total: usize,
    },

    /// Part of a set of numbered files is missing.
    #[error("{repo}: of {set}, only {have} of {total} parts are {place}", place = place(*offline))]
    Incomplete {
        /// The requested repository.
        repo: Box<Repository>,
        /// The common prefix of the files' names.
        set: String,
        /// The number of existing parts.
        have: usize,
        /// The expected number of parts.
        total: usize,
        /// Whether the cache was searched instead of the hub.
        offline: bool,
    },

    /// The repository lacks files that are needed.
    #[error("{repo} lacks {wanted}; {place}: {found}", place = place(*offline), found = list(found))]
    Lacks {
        /// The requested repository.
        repo: Box<Repository>,
        /// The expected files.
        wanted: &'static str,
        /// The files of the repository.
        found: Vec<String>,
        /// Whether the cache was searched instead of the hub.
        offline: bool,
    },

    /// The repository of a model has an adapter instead of a checkpoint.
    #[error(
        "{repo} is an adapter and no checkpoint: give it as the adapter of the model that it was trained on"
    )]
    IsAdapter {
        /// The requested repository.
        repo: Repository,
    },

    /// The dataset consists of Arrow files written by `save_to_disk`.
    #[error(
        "{repo} has the .arrow files of `save_to_disk`, which are read from local folders only: upload the dataset with \
         `Dataset.push_to_hub`, which writes parquet files, or download it and give the folder"
    )]
    SavedToDisk {
        /// The requested repository.
        repo: Repository,
    },

    /// The dataset has several configurations, and none is called `default`.
    #[error(
        "{repo} has several configurations ({configurations}): download the one that you want and pass its folder",
        configurations = configurations.join(", ")
    )]
    SeveralConfigurations {
        /// The requested repository.
        repo: Repository,
        /// The folders with a train split.
        configurations: Vec<String>,
    },

    /// The dataset does not have the requested split.
    #[error("{repo}: {}", advice::no_split(split, splits))]
    NoSplit {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested split.
        split: String,
        /// The splits of the dataset. Empty if it is not in parquet or tar files.
        splits: Vec<String>,
    },

    /// A split was requested of a repository that is not a dataset.
    #[error("{repo}: only datasets have splits; remove the colon and the text after it")]
    SplitOfModel {
        /// The requested repository.
        repo: Repository,
    },

    /// A split was requested by its name from a dataset on this machine. Only splits of the hub have names.
    #[error(
        "{path} is on this machine, and only splits of the hub have names: give the files of `{split}`, such as \
         {path}/{split}-*.parquet, or their folder",
        path = path.display()
    )]
    SplitOfFolder {
        /// The folder.
        path: PathBuf,
        /// The requested split.
        split: String,
    },

    /// The dataset's format is not supported, and the hub converted only its first part to parquet.
    #[error(
        "{repo} is not in a format that is read here, and the hub converted only a part of it to parquet ({part}): \
         download and convert it, or give {name}@{revision} to use that part",
        name = repo.id.name
    )]
    PartlyConverted {
        /// The requested repository.
        repo: Repository,
        /// The folder of the part.
        part: String,
        /// The branch that contains it.
        revision: &'static str,
    },

    /// A file is not in the cache, and the cache cannot be written to.
    #[error(
        "{repo}{file}: cannot be kept in the cache, {path}: {cause}; set HF_HUB_CACHE to a folder that you may write \
         to, or HF_HUB_OFFLINE=1 to use the files that the cache has",
        file = of_file(file), path = path.display()
    )]
    ReadOnlyCache {
        /// The requested repository.
        repo: Box<Repository>,
        /// The requested file; `None` for the record of the branch's commit.
        file: Option<String>,
        /// The path that cannot be written.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },

    /// The cache cannot be read or written.
    #[error("the cache, {path}: {cause}{advice}", path = path.display(), advice = advice::disk(cause))]
    Cache {
        /// The file or folder concerned.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
}
