//! What to do about an HTTP status, in words.

use std::{io, time::Duration};

use super::{Error, Repository};

/// Who refused what, and how.
struct Refusal<'a> {
    repo: &'a Repository,
    endpoint: &'a str,
    status: u16,
    code: &'a str,
    is_file: bool,
    is_hub: bool,
    with_token: bool,
    wait: Option<Duration>,
}

/// What to do about [`Error::Refused`].
pub(super) fn refusal(error: &Error) -> String {
    let Error::Refused { repo, file, endpoint, is_hub, status, code, wait, with_token, .. } = error else {
        return String::new();
    };
    let refusal = Refusal {
        repo,
        endpoint,
        code,
        status: *status,
        is_file: file.is_some(),
        is_hub: *is_hub,
        with_token: *with_token,
        wait: *wait,
    };
    refusal.advice()
}

impl Refusal<'_> {
    /// The hub answers 401 rather than 404 to a stranger who asks for what does not exist, and 404 for what is private,
    /// so that names do not leak: the words have to cover both, unless it gives a reason.
    fn advice(&self) -> String {
        let (id, endpoint) = (&self.repo.id, self.endpoint);
        let local = "no local path has that name either";
        match (self.status, self.code) {
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
                "the access token (HF_TOKEN or the token file) is not valid there, or `{id}` does not exist; check both \
                 ({local})"
            ),
            (401, _) => format!(
                "`{id}` does not exist, or is private or gated: check the spelling, or set HF_TOKEN to a token that may \
                 read it ({local})"
            ),
            (403, _) => format!("access is not granted: {}", self.gated()),
            (404, _) if self.is_file => "the file is not there".into(),
            (404, _) => format!(
                "no such repository or revision: check the spelling of `{id}` ({local}); a private one needs HF_TOKEN"
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

/// What to do about a cache that cannot be read or written.
pub(super) fn disk(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set HF_HUB_CACHE to a folder on another disk, and run again to continue"
        }
        _ => "; set HF_HUB_CACHE to another folder, or remove what is in the way",
    }
}
