//! A hub on the loopback: models and datasets in the layout of the real one, with its redirects, headers and
//! refusals.
//!
//! Small files are redirected to a path on the same host and large formats to another host, as the hub does
//! with its cache and its content network. [`Ways`] has the other behaviours of hubs and mirrors. Every
//! connection serves one request and is closed.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each integration test uses its part, and may panic"
)]

pub use super::http_request::Request;
use super::http_request::read;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

/// One revision of a repository.
#[derive(Debug, Clone, Default)]
pub struct Revision {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The token without which the hub denies that the repository exists.
    pub private: Option<String>,
    /// Whether the list of files is public while the files require access.
    pub gated: bool,
}

/// How files are served.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// The redirect for small files.
    pub small: Redirect,
    /// The redirect for large formats.
    pub large: Redirect,
    /// Whether ranges are supported; otherwise every response is 200 with the whole file.
    pub ranges: bool,
    /// Whether files are sent compressed, in chunks and without a length, although the client does not ask
    /// for it. Such a file has no ranges.
    pub gzip: bool,
    /// Whether files are sent without a length: the connection's end is the file's end.
    pub lengthless: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            small: Redirect::Relative,
            large: Redirect::OtherHost,
            ranges: true,
            gzip: false,
            lengthless: false,
        }
    }
}

/// The target of a file's redirect.
#[derive(Debug, Clone, Copy)]
pub enum Redirect {
    /// No redirect: the first response has the bytes.
    No,
    /// To a path.
    Relative,
    /// To a full address on the same host.
    Absolute,
    /// To this server under another host name.
    OtherHost,
    /// To another port of this machine.
    OtherPort(u16),
}

/// A faulty response instead of the right one.
#[derive(Debug, Clone)]
struct Fault {
    /// Applies to paths that contain this text.
    path: String,
    status: &'static str,
    headers: Vec<String>,
    left: usize,
}

#[derive(Debug, Default)]
struct State {
    ways: Ways,
    faults: Vec<Fault>,
    /// Repositories by kind (`models`, `datasets`), name and revision.
    repositories: BTreeMap<(String, String, String), Revision>,
    requests: Vec<Request>,
    /// How many downloads to cut in the middle.
    cuts: usize,
    /// How many downloads to alter.
    alterations: usize,
    /// How many downloads to stall in the middle.
    stalls: usize,
    /// The open connections of stalled downloads.
    stalled: Vec<TcpStream>,
}

/// Runs until it is dropped.
pub struct HubServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    worker: Option<JoinHandle<()>>,
}

impl HubServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let worker = thread::spawn(move || {
            for stream in listener.incoming() {
                // Errors of clients that disconnect early are ignored.
                if let Ok(stream) = stream
                    && serve(&stream, &shared) == Ok(Flow::Stop)
                {
                    break;
                }
            }
        });
        Self { address, state, worker: Some(worker) }
    }

    /// The value for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a repository: `kind` is `models` or `datasets`, `revision` a branch.
    pub fn add(&self, kind: &str, name: &str, revision: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
        self.put(kind, name, revision, Revision { files, ..Revision::default() });
    }

    pub fn put(&self, kind: &str, name: &str, revision: &str, content: Revision) {
        self.state().repositories.insert((kind.into(), name.into(), revision.into()), content);
    }

    /// Adds the files of a folder on disk, those of its folders included, as a repository's main branch.
    pub fn add_folder(&self, kind: &str, name: &str, folder: &Path) {
        fn read(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(root, &path, files);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let mut files = BTreeMap::new();
        read(folder, folder, &mut files);
        self.put(kind, name, "main", Revision { files, ..Revision::default() });
    }

    /// A copy of a revision.
    pub fn get(&self, kind: &str, name: &str, revision: &str) -> Revision {
        self.state().repositories[&(kind.into(), name.into(), revision.into())].clone()
    }

    /// The commit of a revision.
    pub fn commit_of(&self, kind: &str, name: &str, revision: &str) -> String {
        commit(&self.get(kind, name, revision))
    }

    /// Returns the requests so far and clears them.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// Cuts the next downloads in the middle.
    pub fn cut_downloads(&self, count: usize) {
        self.state().cuts = count;
    }

    /// Changes the first byte of the next downloads.
    pub fn alter_downloads(&self, count: usize) {
        self.state().alterations = count;
    }

    /// Responds with `status` and `headers` to the next requests whose path contains `path`.
    pub fn refuse(&self, path: &str, status: &'static str, headers: &[&str], count: usize) {
        let headers = headers.iter().map(|header| (*header).to_owned()).collect();
        self.state().faults.push(Fault { path: path.into(), status, headers, left: count });
    }

    /// Changes how files are served from now on.
    pub fn answer(&self, ways: Ways) {
        self.state().ways = ways;
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Stalls the next downloads after half of the bytes.
    pub fn stall_downloads(&self, count: usize) {
        self.state().stalls = count;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.write_all(b"STOP / HTTP/1.1\r\n\r\n");
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// The commit that a branch points to: a hash of the content, so that it differs for every content.
pub fn commit(content: &Revision) -> String {
    etag(format!("{:?}", content.files).as_bytes())[..40].to_owned()
}

/// The ETag of a content: its SHA-256, as for large files of a real hub.
fn etag(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// A response to a request.
struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Whether the body is that of a file, which may be cut.
    is_download: bool,
    /// How the client finds the end of the body.
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Length,
    Chunks,
    Connection,
}

impl Answer {
    fn new(status: &'static str, headers: Vec<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers, body: body.into(), is_download: false, end: End::Length }
    }

    fn refusal(status: &'static str, code: &str) -> Self {
        Self::new(status, vec![format!("X-Error-Code: {code}")], format!("{{\"error\":\"{code}\"}}"))
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> Result<Flow, ()> {
    let request = read(stream).ok_or(())?;
    if request.method == "STOP" {
        return Ok(Flow::Stop);
    }
    let mut state = state.lock().unwrap();
    let mut answer = answer(&request, &mut state);
    if answer.end == End::Chunks {
        answer.body = chunks(&answer.body);
    }
    state.requests.push(request.clone());
    let mut text = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    match answer.end {
        End::Length => text += &format!("Content-Length: {}\r\n", answer.body.len()),
        End::Chunks => text += "Transfer-Encoding: chunked\r\n",
        End::Connection => {}
    }
    for header in &answer.headers {
        text += &format!("{header}\r\n");
    }
    text += "\r\n";
    answer.is_download &= request.method != "HEAD";
    if answer.is_download && state.alterations > 0 {
        state.alterations -= 1;
        answer.body[0] ^= 1;
    }
    let mut sent = &answer.body[..];
    if answer.is_download && sent.len() > 1 && state.cuts > 0 {
        state.cuts -= 1;
        sent = &sent[..sent.len() / 2];
    }
    if answer.is_download && sent.len() > 1 && state.stalls > 0 {
        state.stalls -= 1;
        sent = &sent[..sent.len() / 2];
        state.stalled.push(stream.try_clone().map_err(|_| ())?);
    }
    let mut stream = stream;
    stream.write_all(text.as_bytes()).map_err(|_| ())?;
    if request.method != "HEAD" {
        stream.write_all(sent).map_err(|_| ())?;
    }
    Ok(Flow::Go)
}

fn answer(request: &Request, state: &mut State) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/').replace("%2F", "/");
    if let Some(fault) = state.faults.iter_mut().find(|fault| fault.left > 0 && path.contains(&fault.path)) {
        fault.left -= 1;
        return Answer::new(fault.status, fault.headers.clone(), "refused");
    }
    // /cdn/KIND/OWNER/NAME/ETAG and /cache/KIND/OWNER/NAME/ETAG hold the bytes.
    if let Some(rest) = path.strip_prefix("cdn/").or_else(|| path.strip_prefix("api/resolve-cache/")) {
        return stored(rest, request, state);
    }
    let (is_info, rest) = match path.strip_prefix("api/") {
        Some(rest) => (true, rest),
        None => (false, path.as_str()),
    };
    let (kind, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => ("datasets", rest),
        None => ("models", rest.strip_prefix("models/").unwrap_or(rest)),
    };
    let marker = if is_info { "/revision/" } else { "/resolve/" };
    let Some((name, rest)) = rest.split_once(marker) else {
        return Answer::refusal("404 Not Found", "NoSuchPage");
    };
    // Without a token the response is 401, with one it is 404.
    let unknown = if request.authorization.is_some() { "404 Not Found" } else { "401 Unauthorized" };
    let known = |((k, n, _), _): &(&(String, String, String), &Revision)| k == kind && n == name;
    if !state.repositories.iter().any(|entry| known(&entry)) {
        return Answer::refusal(unknown, "RepoNotFound");
    }
    let found = state.repositories.iter().filter(known).find_map(|((_, _, branch), content)| {
        let after =
            |start: &str| rest.strip_prefix(start).filter(|file| file.is_empty() || file.starts_with('/'));
        let commit = commit(content);
        Some((branch, content, after(branch).or_else(|| after(&commit))?.trim_start_matches('/').to_owned()))
    });
    let Some((branch, content, file)) = found else {
        return Answer::refusal("404 Not Found", "RevisionNotFound");
    };
    if let Some(token) = &content.private
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return Answer::refusal(unknown, "RepoNotFound");
    }
    if is_info {
        let files: Vec<_> =
            content.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "id": name, "sha": commit(content), "siblings": files, "private": content.private.is_some() });
        return Answer::new("200 OK", vec!["Content-Type: application/json".into()], info.to_string());
    }
    if content.gated {
        return Answer::refusal("403 Forbidden", "GatedRepo");
    }
    let Some(bytes) = content.files.get(&file) else {
        return Answer::refusal("404 Not Found", "EntryNotFound");
    };
    let tag = etag(bytes);
    let large =
        ["safetensors", "bin", "parquet", "png", "jpg"].iter().any(|extension| file.ends_with(extension));
    let port = request.host.rsplit(':').next().unwrap_or_default();
    let content_path = format!("cdn/{kind}/{name}/{branch}/{tag}?signature=1");
    let location = match if large { state.ways.large } else { state.ways.small } {
        Redirect::No => return part_of(bytes, &tag, &commit(content), request.range.as_deref(), state.ways),
        Redirect::Relative => format!("/api/resolve-cache/{kind}/{name}/{branch}/{tag}?download=true"),
        Redirect::Absolute => format!("http://{}/{content_path}", request.host),
        Redirect::OtherHost => format!("http://localhost:{port}/{content_path}"),
        Redirect::OtherPort(port) => format!("http://127.0.0.1:{port}/{content_path}"),
    };
    let mut headers = vec![format!("X-Repo-Commit: {}", commit(content)), format!("Location: {location}")];
    if large {
        headers.push(format!("X-Linked-ETag: \"{tag}\""));
        headers.push(format!("X-Linked-Size: {}", bytes.len()));
        headers.push("ETag: \"of-the-pointer\"".into());
        Answer::new("302 Found", headers, "redirect")
    } else {
        headers.push(format!("ETag: \"{tag}\""));
        Answer::new("307 Temporary Redirect", headers, "redirect")
    }
}

/// The file that a content network stores as `KIND/OWNER/NAME/BRANCH/ETAG`.
fn stored(place: &str, request: &Request, state: &State) -> Answer {
    let (repository, tag) = place.rsplit_once('/').unwrap_or(("", ""));
    let content = state
        .repositories
        .iter()
        .find(|((kind, name, revision), _)| format!("{kind}/{name}/{revision}") == repository);
    let bytes = content.and_then(|(_, content)| content.files.values().find(|bytes| etag(bytes) == tag));
    match (content, bytes) {
        (Some((_, content)), Some(bytes)) => {
            part_of(bytes, tag, &commit(content), request.range.as_deref(), state.ways)
        }
        _ => Answer::refusal("404 Not Found", "EntryNotFound"),
    }
}

/// The part of a file for `Range: bytes=FIRST-` or `bytes=FIRST-LAST`.
fn part_of(bytes: &[u8], tag: &str, commit: &str, range: Option<&str>, ways: Ways) -> Answer {
    let mut headers = vec![format!("ETag: \"{tag}\""), format!("X-Repo-Commit: {commit}")];
    if ways.gzip {
        headers.push("Content-Encoding: gzip".into());
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        let packed = packed.finish().unwrap();
        return Answer { is_download: true, end: End::Chunks, ..Answer::new("200 OK", headers, packed) };
    }
    let end = if ways.lengthless { End::Connection } else { End::Length };
    let range = range.filter(|_| ways.ranges).and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else {
        return Answer { is_download: true, end, ..Answer::new("200 OK", headers, bytes) };
    };
    let first: usize = first.parse().unwrap();
    let stop = last.parse().map_or(bytes.len(), |last: usize| (last + 1).min(bytes.len()));
    if first >= stop {
        return Answer::refusal("416 Range Not Satisfiable", "Range");
    }
    headers.push(format!("Content-Range: bytes {first}-{}/{}", stop - 1, bytes.len()));
    Answer { is_download: true, end, ..Answer::new("206 Partial Content", headers, &bytes[first..stop]) }
}

/// A body in HTTP chunks, for a response without a length.
fn chunks(body: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    for chunk in body.chunks(1000) {
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    sent
}
