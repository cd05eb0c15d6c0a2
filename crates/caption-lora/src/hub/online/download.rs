//! Downloads one file from the hub into the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use ureq::http::Uri;

use super::address::shown;
use super::cache::{RepoCache, parent_of};
use super::failure::{Failure, cut, retried, wait};
use super::http::{Http, Reply};

const CHUNK: usize = 1 << 18;
/// The pause before a download that stalled after some bytes is resumed.
const BREATH: Duration = Duration::from_millis(500);

/// A file on the hub.
pub(super) struct RemoteFile<'a> {
    pub(super) http: &'a Http,
    /// The file's permanent address, which may redirect to temporary ones.
    pub(super) url: Uri,
    pub(super) name: &'a str,
    pub(super) progress: bool,
}

/// The headers that describe a file.
pub(super) struct Facts {
    /// Identifies the content.
    pub(super) etag: String,
    /// The number of bytes, if the hub states it for the file and not for one response.
    pub(super) size: Option<u64>,
    /// Whether the ETag is the SHA-256 of the content, as it is for all large files of the hub.
    is_sha256: bool,
    /// The address of the content, possibly with a signature that expires.
    url: Uri,
}

impl RemoteFile<'_> {
    /// Downloads the file into the snapshot of `commit`, unless the cache has the same content from another
    /// commit.
    pub(super) fn fetch(&self, cache: &RepoCache, commit: &str) -> Result<(), Failure> {
        let facts = retried(|| self.facts())?;
        let blob = cache.blob(&facts.etag);
        let mut is_new = false;
        if !blob.exists() {
            let bar = self.bar();
            let waiting = |lock: &Path| {
                bar.set_message(format!("{}: another process downloads it ({})", self.name, lock.display()));
                bar.tick();
            };
            let _lock = cache.lock(&facts.etag, waiting)?;
            bar.set_message(self.name.to_owned());
            if !blob.exists() {
                self.download(&facts, &blob, &bar)?;
                is_new = true;
            }
            bar.finish_and_clear();
        }
        cache.link(commit, self.name, &facts.etag, is_new)
    }

    /// Requests the headers of the file: those of the hub's own response, not of the storage that it
    /// redirects to.
    pub(super) fn facts(&self) -> Result<Facts, Failure> {
        let says_what = |reply: &Reply, target: &Uri| {
            reply.header("X-Linked-ETag").is_some()
                || (reply.header("ETag").is_some() && !self.http.is_hub(target))
        };
        let reply = self.http.head(&self.url, says_what)?;
        let target = reply.target()?;
        let etag = reply.header("X-Linked-ETag").or_else(|| reply.header("ETag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let is_name = |etag: &String| {
            !etag.is_empty() && !etag.starts_with('.') && !etag.contains(['/', '\\', ':', '\0'])
        };
        let Some(etag) = etag.filter(is_name) else {
            return Err(
                reply.strange("its headers lack an ETag that could name the content of the file".into())
            );
        };
        let is_sha256 = reply.header("X-Linked-ETag").is_some()
            && etag.len() == 64
            && etag.bytes().all(|c| c.is_ascii_hexdigit());
        let size = reply.header("X-Linked-Size").and_then(|size| size.parse().ok());
        Ok(Facts { etag, size, is_sha256, url: target.unwrap_or(reply.url) })
    }

    /// Downloads until the blob is complete. A partial download stays beside it for the next attempt or the
    /// next run.
    fn download(&self, facts: &Facts, blob: &Path, bar: &ProgressBar) -> Result<(), Failure> {
        let mut partial = blob.as_os_str().to_owned();
        partial.push(".incomplete");
        let partial = PathBuf::from(partial);
        let disk = |source| Failure::Disk { path: partial.clone(), source };
        parent_of(&partial).map_err(disk)?;
        // A signed address may expire before the next attempt, so each attempt asks the hub again.
        let (mut url, mut failures) = (&facts.url, 0);
        loop {
            let before = length(&partial);
            let failure = match self.attempt(url, facts, &partial, bar) {
                Ok(()) => break,
                Err(failure) => failure,
            };
            let came_further = length(&partial) > before;
            if came_further {
                failures = 0;
            }
            let pause = match failure {
                Failure::Silent { .. } if came_further => Some(BREATH),
                // The partial file is too long, or belongs to another file.
                Failure::Refused { status: 416, .. } if before > 0 => {
                    fs::remove_file(&partial).map_err(disk)?;
                    Some(Duration::ZERO)
                }
                // The signature has expired.
                Failure::Refused { status: 401 | 403, .. } if *url != self.url => Some(Duration::ZERO),
                _ => failure.pause(failures),
            };
            let Some(pause) = pause else { return Err(failure) };
            wait(pause);
            failures += 1;
            url = &self.url;
        }
        fs::rename(&partial, blob).map_err(disk)
    }

    /// One request for the missing bytes.
    fn attempt(&self, url: &Uri, facts: &Facts, partial: &Path, bar: &ProgressBar) -> Result<(), Failure> {
        let disk = |source| Failure::Disk { path: partial.to_owned(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(partial).map_err(disk)?;
        let mut offset = file.metadata().map_err(disk)?.len();
        if facts.size.is_some_and(|size| offset >= size) {
            // The partial file was left by a process that was killed just before the end, or is damaged.
            offset = 0;
            file.set_len(0).map_err(disk)?;
        }
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let reply = self.http.get(url, range.as_deref())?;
        let range = reply.header("Content-Range").and_then(content_range).filter(|_| reply.status == 206);
        let continues = range.is_some_and(|(first, _)| first == offset) && !reply.is_compressed();
        if reply.status == 206 && !continues {
            // Not the requested range: the next attempt requests the whole file.
            file.set_len(0).map_err(disk)?;
            let source = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the response has another range than was requested",
            );
            return Err(Failure::Cut { url: shown(&reply.url), source });
        }
        if !continues {
            // The server does not support ranges and sends the whole file.
            offset = 0;
            file.set_len(0).map_err(disk)?;
        }
        let announced = range.map_or_else(|| reply.length(), |(_, total)| total);
        let size = facts.size.or(announced);
        bar.set_length(size.unwrap_or(0));
        bar.set_position(offset);
        let (url, is_compressed) = (reply.url.clone(), reply.is_compressed());
        let copied = copy(&mut reply.reader()?, &mut file, bar).map_err(|error| match error {
            CopyError::Read(error) => cut(&url, error),
            CopyError::Write(source) => disk(source),
        });
        if is_compressed && copied.is_err() {
            // The response is compressed, and positions in the unpacked file are not positions in it, so it
            // cannot be resumed.
            file.set_len(0).map_err(disk)?;
        }
        copied?;
        let length = file.metadata().map_err(disk)?.len();
        match size {
            Some(size) if length < size => {
                let source = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the connection ended after {length} of {size} bytes"),
                );
                Err(Failure::Cut { url: shown(&url), source })
            }
            Some(size) if length > size => {
                file.set_len(0).map_err(disk)?;
                let (found, stated) = (format!("{length} bytes"), format!("{size} bytes"));
                Err(Failure::Altered { url: shown(&url), found, stated })
            }
            _ => {
                if facts.is_sha256 {
                    let hash = sha256(partial).map_err(disk)?;
                    if hash != facts.etag.to_ascii_lowercase() {
                        // Damaged in transfer, or in a part left by an earlier run. The next attempt starts
                        // from scratch.
                        file.set_len(0).map_err(disk)?;
                        let (found, stated) = (format!("SHA-256 {hash}"), format!("SHA-256 {}", facts.etag));
                        return Err(Failure::Altered { url: shown(&url), found, stated });
                    }
                }
                file.sync_all().map_err(disk)
            }
        }
    }

    fn bar(&self) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let template = "{msg} [{elapsed_precise}] [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
        let bar = ProgressBar::new(0);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn copy(reader: &mut dyn Read, file: &mut File, bar: &ProgressBar) -> Result<(), CopyError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        file.write_all(&chunk[..count]).map_err(CopyError::Write)?;
        bar.inc(count as u64);
    }
}

/// The SHA-256 of a file, in lower-case hexadecimal digits.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&chunk[..count]),
        }
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// The first byte and the total size of the file in `bytes 5-9/10`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split('-').next()?.trim().parse().ok()?, total.trim().parse().ok()))
}
