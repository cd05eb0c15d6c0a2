//! The hub answers with an HTTP error: the message and its advice.

use std::{fmt, time::Duration};

use super::{
    Repository,
    advice::{not_local, of_file, sought},
};

/// An HTTP error: which server refused which file, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The requested repository.
    pub repo: Repository,
    /// The requested file; `None` for the repository's list of files.
    pub file: Option<String>,
    /// The requested address, without its query.
    pub url: Box<str>,
    /// The hub's address, with its user and password masked.
    pub endpoint: String,
    /// Whether the hub itself answered, as opposed to a host that it redirected to.
    pub is_hub: bool,
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// The hub's name for the error, such as `GatedRepo`; empty if it gives none.
    pub code: String,
    /// The waiting time in the server's response.
    pub wait: Option<Duration>,
    /// Whether the client has an access token.
    pub with_token: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, file, url, status, .. } = self;
        // The advice about other refusals of a list of files already contains this.
        let sought = if *status >= 500 { sought(repo, file.as_deref()) } else { String::new() };
        write!(f, "{repo}{}: {sought}{url} answered {status}: {}", of_file(file), self.advice())
    }
}

impl Refusal {
    /// Without a token, the hub answers 401 instead of 404 for a repository that does not exist, and 404 for
    /// a private one, so that names do not leak. The message has to cover both, unless the hub gives a
    /// reason.
    fn advice(&self) -> String {
        let (id, endpoint) = (&self.repo.id, &self.endpoint);
        let local = not_local(&self.repo);
        match (self.status, self.code.as_str()) {
            (429, _) => format!("too many requests: {}, or set HF_TOKEN, which raises the limit", self.later()),
            (500.., _) => {
                format!("the server has a problem: {}, or set HF_ENDPOINT to a mirror, or pass a local folder", self.later())
            }
            _ if !self.is_hub => {
                "the hub redirected the download to this host, which refuses it: run again to continue, and check the \
                 proxy (HTTPS_PROXY) or set HF_ENDPOINT to a mirror if it happens again"
                    .into()
            }
            (401 | 403, "GatedRepo") => self.gated(),
            (404, "RevisionNotFound") => {
                format!("`{}` has no branch, tag or commit `{}`: its page is {endpoint}/{}", id.name, self.repo.revision(), self.page())
            }
            (401, _) if self.with_token => format!(
                "the access token (HF_TOKEN or the token file) is not valid there, or the hub has no repository of that \
                 name: check both; {local} either"
            ),
            (401, _) => format!(
                "{local}, and on the hub there is no such repository, or it is private or gated: check the spelling, or \
                 set HF_TOKEN to a token that may read it"
            ),
            (403, _) => format!("access is not granted: {}", self.gated()),
            (404, _) if self.file.is_some() => "the file is not there".into(),
            (404, _) => format!(
                "{local}, and on the hub there is no such repository or revision: check the spelling; a private \
                 repository needs HF_TOKEN"
            ),
            _ => "check that HF_ENDPOINT is a hub, or pass a local folder".into(),
        }
    }

    fn gated(&self) -> String {
        let page = format!("{}/{}", self.endpoint, self.page());
        if self.with_token {
            format!(
                "`{}` is gated, or the token may not read it: log in at {page}, accept its licence there, and set HF_TOKEN \
                 to a token of that account that may read gated repositories",
                self.repo.id.name
            )
        } else {
            format!(
                "`{}` is gated: log in at {page}, accept its licence there, and set HF_TOKEN to a token of that account \
                 (from {}/settings/tokens)",
                self.repo.id.name, self.endpoint
            )
        }
    }

    fn page(&self) -> String {
        self.repo.web_path()
    }

    fn later(&self) -> String {
        match self.wait.map(|wait| wait.as_secs()) {
            Some(seconds @ 1..) => format!("run again in {seconds} s"),
            _ => "run again later".into(),
        }
    }
}
