use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::api::sync::ApiError;

use super::repository::Repository;

/// The result of looking something up on the hub.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model, a dataset or an adapter could not be found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text names nothing on this machine and cannot be a hub id.
    #[error(
        "`{text}` is no file or folder{place}, and no hub id either: give a path that exists, `embedded`, or owner/name \
         such as microsoft/git-base",
        place = beside(text, folder)
    )]
    NoSuchLocation {
        /// What the user gave.
        text: String,
        /// Where relative paths begin.
        folder: PathBuf,
    },

    /// Neither HF_HOME nor a home folder is known, so there is nowhere to keep what is downloaded.
    #[error("no home folder is known to keep downloads in: set HF_HOME to a folder")]
    NoCacheFolder,

    /// HF_ENDPOINT is not a web address.
    #[error("HF_ENDPOINT is `{endpoint}`, which is no web address: it must begin with https:// or http://")]
    BadEndpoint {
        /// The value of HF_ENDPOINT.
        endpoint: String,
    },

    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client: {source}")]
    Client {
        /// What it said.
        source: Box<ApiError>,
    },

    /// The hub answered with an HTTP error.
    #[error("{repo}{file}: {endpoint} answered {status}: {advice}", file = of_file(file), advice = advice(repo, *status, file.is_some(), *with_token, endpoint))]
    Refused {
        /// The repository asked for.
        repo: Repository,
        /// The file asked for; `None` when it was the repository's list of files.
        file: Option<String>,
        /// The hub's address.
        endpoint: String,
        /// The HTTP status, 400 to 599.
        status: u16,
        /// Whether a token was sent along.
        with_token: bool,
    },

    /// No connection to the hub.
    #[error(
        "{repo}: cannot reach {endpoint} ({source}): check the network, or set HF_ENDPOINT to a mirror, or pass a local folder{offline}",
        offline = if *cached { "; the cache has a copy, which HF_HUB_OFFLINE=1 uses" } else { "" }
    )]
    Unreachable {
        /// The repository asked for.
        repo: Repository,
        /// The hub's address.
        endpoint: String,
        /// Whether the cache knows the repository.
        cached: bool,
        /// What the HTTP client said.
        source: Box<ApiError>,
    },

    /// A server that was reached and then said nothing.
    #[error(
        "{repo}{file} from {endpoint}: not a byte came for {seconds} s; run again, give it more time with HF_HUB_DOWNLOAD_TIMEOUT, or set HF_ENDPOINT to a mirror",
        file = of_file(file), seconds = timeout.as_secs_f64()
    )]
    Stalled {
        /// The repository asked for.
        repo: Repository,
        /// The file asked for; `None` when it was the repository's list of files.
        file: Option<String>,
        /// The hub's address.
        endpoint: String,
        /// How long it was waited for.
        timeout: Duration,
    },

    /// A download began and did not come to its end, or the answer was not what a hub says.
    #[error("{repo}{file} from {endpoint}: {source}: {advice}", file = of_file(file), advice = transfer_advice(source))]
    Transfer {
        /// The repository asked for.
        repo: Repository,
        /// The file asked for; `None` when it was the repository's list of files.
        file: Option<String>,
        /// The hub's address.
        endpoint: String,
        /// What the HTTP client said.
        source: Box<ApiError>,
    },

    /// Offline, and the cache does not know the repository.
    #[error(
        "{repo} is not in the cache {cache} and HF_HUB_OFFLINE is set: unset it to download, or pass a local folder",
        cache = cache.display()
    )]
    NotCached {
        /// The repository asked for.
        repo: Repository,
        /// The cache that was searched.
        cache: PathBuf,
    },

    /// Part of a set of numbered files is missing.
    #[error("{repo}: of {set}, only {have} of {total} parts are {place}", place = place(*offline))]
    Incomplete {
        /// The repository asked for.
        repo: Repository,
        /// The common beginning of the files' names.
        set: String,
        /// How many parts there are.
        have: usize,
        /// How many parts there should be.
        total: usize,
        /// Whether the cache was searched instead of the hub.
        offline: bool,
    },

    /// The repository lacks what is needed.
    #[error("{repo} lacks {wanted}; {place}: {found}", place = place(*offline), found = list(found))]
    Lacks {
        /// The repository asked for.
        repo: Repository,
        /// What was looked for.
        wanted: &'static str,
        /// The files that are there.
        found: Vec<String>,
        /// Whether the cache was searched instead of the hub.
        offline: bool,
    },

    /// The dataset has several configurations, and none is called `default`.
    #[error(
        "{repo} has several configurations ({configurations}): download the one that you want and pass its folder",
        configurations = configurations.join(", ")
    )]
    SeveralConfigurations {
        /// The repository asked for.
        repo: Repository,
        /// The folders that hold a train split.
        configurations: Vec<String>,
    },

    /// Someone pushed to the repository between two of our downloads.
    #[error("{repo} changed while it was downloaded: run again")]
    Changed {
        /// The repository asked for.
        repo: Repository,
    },

    /// The cache cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Cache {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Where a path that is not a whole one was looked for.
fn beside(text: &str, folder: &Path) -> String {
    if Path::new(text).is_absolute() { String::new() } else { format!(" in {}", folder.display()) }
}

fn of_file(file: &Option<String>) -> String {
    file.as_ref().map(|name| format!(", file {name}")).unwrap_or_default()
}

fn place(offline: bool) -> &'static str {
    if offline { "in the cache (HF_HUB_OFFLINE is set: unset it to download the rest)" } else { "there" }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    if text.is_empty() { "nothing".into() } else { text }
}

/// Says an HTTP status in words. The hub answers 401 rather than 404 to a stranger who asks for what does not exist,
/// and 404 for what is private, so that names do not leak: the words have to cover both.
fn advice(repo: &Repository, status: u16, is_file: bool, with_token: bool, endpoint: &str) -> String {
    let id = &repo.id.name;
    match status {
        401 if with_token => format!(
            "the token (HF_TOKEN or the token file) is not valid there, or `{id}` does not exist; check both (no local path has that name either)"
        ),
        401 => format!(
            "`{id}` does not exist, or is private or gated: check the spelling, or set HF_TOKEN to a token that may read it (no local path has that name either)"
        ),
        403 => format!(
            "access is not granted: `{id}` is gated (ask for access at {endpoint}/{path}) or the token may not read it; set HF_TOKEN to one that may",
            path = repo.web_path()
        ),
        404 if is_file => "the file is not there".into(),
        404 => format!(
            "no such repository or revision: check the spelling of `{repo_id}` (no local path has that name either); a private one needs HF_TOKEN",
            repo_id = repo.id
        ),
        429 => "too many requests: wait a little, or set HF_TOKEN, which raises the limit".into(),
        500.. => "the server has a problem: try again later, or set HF_ENDPOINT to a mirror, or pass a local folder".into(),
        _ => "check that HF_ENDPOINT is a hub, or pass a local folder".into(),
    }
}

fn transfer_advice(source: &ApiError) -> String {
    match source {
        ApiError::LockAcquisition(path) => {
            format!(
                "another process downloads it; wait for that one, or delete {} if there is none",
                path.display()
            )
        }
        ApiError::IoError(e) if e.kind() == io::ErrorKind::StorageFull => {
            "free some space, or set HF_HOME to a folder on another disk".into()
        }
        ApiError::MissingHeader(_)
        | ApiError::InvalidHeader(_)
        | ApiError::ParseIntError(_)
        | ApiError::RequestError(_) => {
            "this is not what a hub answers: check HF_ENDPOINT and the proxy, or pass a local folder".into()
        }
        _ => "run again to continue where it stopped, or pass a local folder".into(),
    }
}
