//! Files whose parts are fetched when they are needed, to a part of the cache with a size limit:
//!
//! ```text
//! datasets--owner--name/pieces/ETAG/START-END     bytes of the file with this ETag
//! ```

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use caption_data::RemoteFile;
use ureq::http::Uri;

use super::address::shown;
use super::cache::parent_of;
use super::download::content_range;
use super::failure::{Failure, cut, retried};
use super::{Hub, Repository};

/// The size of a piece, unless the limit has room for few of them.
const PIECE: u64 = 8 << 20;
/// The least number of pieces that the limit has room for.
const FEWEST: u64 = 8;
/// The number of pieces that may wait to be fetched ahead.
const AHEAD: usize = 4;

/// The pieces of all datasets in the cache, which together take no more than a limit. The least recently used ones are
/// removed. Several processes may share them.
pub(super) struct PieceCache {
    cache: PathBuf,
    limit: u64,
    /// The size of a piece in bytes.
    pub(super) piece: u64,
    /// Pieces that a thread of this process is fetching.
    busy: Mutex<HashSet<PathBuf>>,
    is_fetched: Condvar,
}

impl PieceCache {
    pub(super) fn new(cache: &Path, limit: u64) -> Self {
        let piece = (limit / FEWEST).clamp(1, PIECE);
        Self { cache: cache.to_owned(), limit, piece, busy: Mutex::default(), is_fetched: Condvar::new() }
    }

    /// The open file of the piece at `path`, which has `length` bytes. The piece is fetched if it is missing.
    fn get(
        &self,
        path: &Path,
        length: u64,
        fetch: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<File, Failure> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(file) = open(path, length) {
                return Ok(file);
            }
            if !busy.contains(path) {
                break;
            }
            busy = self.is_fetched.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(path.to_owned());
        drop(busy);
        let fetched = fetch().and_then(|bytes| {
            self.write(path, &bytes).map_err(|source| Failure::Disk { path: path.to_owned(), source })
        });
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        self.is_fetched.notify_all();
        fetched
    }

    /// Writes a piece under another name first, so that no reader sees a part of it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let folder = parent_of(path)?;
        self.make_room(bytes.len() as u64)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut new = builder.tempfile_in(folder)?;
        new.write_all(bytes)?;
        Ok(new.persist(path)?)
    }

    /// Removes the least recently used pieces, until there is room for `more` bytes. Open files keep their content.
    fn make_room(&self, more: u64) -> io::Result<()> {
        let mut pieces = self.pieces()?;
        pieces.sort();
        let mut total: u64 = pieces.iter().map(|(_, _, length)| length).sum();
        for (_, path, length) in pieces {
            if total + more <= self.limit {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= length,
            }
        }
        Ok(())
    }

    /// All pieces: when each was last used, its path and its length.
    fn pieces(&self) -> io::Result<Vec<(SystemTime, PathBuf, u64)>> {
        let mut pieces = Vec::new();
        for repository in entries(&self.cache)? {
            for file in entries(&repository.join("pieces"))? {
                let is_whole = |path: &PathBuf| {
                    path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
                };
                for path in entries(&file)?.into_iter().filter(is_whole) {
                    // Another process may have removed it.
                    if let Ok(metadata) = fs::metadata(&path) {
                        pieces.push((metadata.modified()?, path, metadata.len()));
                    }
                }
            }
        }
        Ok(pieces)
    }
}

/// Opens a piece, and marks it as used now. `None` if it is not there or not whole.
fn open(path: &Path, length: u64) -> Option<File> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() != length {
        return None;
    }
    // Without permission, it may be removed too early.
    let _ = file.set_modified(SystemTime::now());
    Some(file)
}

/// The paths in a folder; empty if it is not a folder.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// A file of a commit, whose pieces are fetched when they are read, and the following ones ahead.
pub(super) struct PiecewiseFile {
    file: Arc<Source>,
    ahead: SyncSender<(Arc<Source>, u64)>,
    /// The last piece that was requested in advance.
    last: AtomicU64,
}

/// The origin of the pieces of a file, and the folder that caches them.
pub(super) struct Source {
    pub(super) hub: Arc<Hub>,
    pub(super) repo: Repository,
    /// The name in the repository.
    pub(super) name: String,
    /// The name in messages.
    pub(super) path: PathBuf,
    pub(super) url: Uri,
    pub(super) size: u64,
    /// The folder of its pieces.
    pub(super) folder: PathBuf,
    pub(super) cache: Arc<PieceCache>,
}

impl PiecewiseFile {
    pub(super) fn new(source: Source, ahead: SyncSender<(Arc<Source>, u64)>) -> Self {
        Self { file: Arc::new(source), ahead, last: AtomicU64::new(0) }
    }
}

impl Source {
    /// The bytes of a piece.
    fn range(&self, piece: u64) -> Range<u64> {
        let size = self.cache.piece;
        piece * size..((piece + 1) * size).min(self.size)
    }

    /// The open file of a piece.
    fn piece(&self, piece: u64) -> Result<File, Failure> {
        let range = self.range(piece);
        let path = self.folder.join(format!("{}-{}", range.start, range.end));
        self.cache.get(&path, range.end - range.start, || retried(|| self.fetch(&range)))
    }

    fn fetch(&self, range: &Range<u64>) -> Result<Vec<u8>, Failure> {
        // There is always a connection, because such a file is made only with one.
        let Some(http) = &self.hub.http else { return Err(Failure::Silent { url: shown(&self.url) }) };
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        let reply = http.get(&self.url, Some(&wanted))?;
        let part = reply.header("Content-Range").and_then(content_range).filter(|_| reply.status == 206);
        let is_asked_for = part.is_some_and(|(first, total)| {
            first == range.start && total.is_none_or(|total| total == self.size) && !reply.is_compressed()
        });
        if !is_asked_for {
            return Err(reply.strange(
                "it sends files as a whole, and not the parts of them that --data-cache asks for".into(),
            ));
        }
        let (url, length) = (reply.url.clone(), range.end - range.start);
        let mut bytes = Vec::with_capacity(length as usize);
        reply.reader()?.take(length).read_to_end(&mut bytes).map_err(|error| cut(&url, error))?;
        if bytes.len() as u64 != length {
            let ended = format!("the connection ended after {} of {length} bytes", bytes.len());
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, ended);
            return Err(Failure::Cut { url: shown(&url), source });
        }
        Ok(bytes)
    }
}

impl RemoteFile for PiecewiseFile {
    fn name(&self) -> &Path {
        &self.file.path
    }

    fn size(&self) -> u64 {
        self.file.size
    }

    fn read_at(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let source = &self.file;
        let size = source.cache.piece;
        let (mut at, mut rest) = (start, bytes);
        while !rest.is_empty() {
            let number = at / size;
            let range = source.range(number);
            if at >= range.end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let explain = |failure| source.hub.explain(&source.repo, Some(&source.name), failure);
            let mut piece = source.piece(number).map_err(|failure| io::Error::other(explain(failure)))?;
            let next = number + 1;
            if next * size < source.size && self.last.swap(next, Ordering::Relaxed) != next {
                // If too many pieces wait already, this one is fetched when it is read.
                let _ = self.ahead.try_send((Arc::clone(source), next));
            }
            let count = rest.len().min((range.end - at) as usize);
            let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
            piece.seek(SeekFrom::Start(at - range.start))?;
            piece.read_exact(now)?;
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }
}

/// The sender of pieces to fetch in advance. A thread fetches them until all senders are dropped.
pub(super) fn fetched_ahead() -> io::Result<SyncSender<(Arc<Source>, u64)>> {
    let (sender, wanted): (_, Receiver<(Arc<Source>, u64)>) = sync_channel(AHEAD);
    thread::Builder::new().name("ahead".to_owned()).spawn(move || {
        for (source, piece) in wanted {
            // An error is ignored here, because it is reported when the piece is read.
            let _ = source.piece(piece);
        }
    })?;
    Ok(sender)
}

impl fmt::Debug for PiecewiseFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source { path, size, folder, .. } = &*self.file;
        f.debug_struct("PiecewiseFile")
            .field("path", path)
            .field("size", size)
            .field("folder", folder)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_take_no_more_than_the_limit_and_the_least_recently_used_ones_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PieceCache::new(folder.path(), 80);
        assert_eq!(cache.piece, 10);
        let path = |piece: u64| folder.path().join("datasets--a--b/pieces/etag").join(piece.to_string());
        let get = |piece, is_there: bool| {
            let fetch = || {
                assert!(!is_there, "piece {piece} is fetched again");
                Ok(vec![piece as u8; 10])
            };
            let mut bytes = Vec::new();
            let mut file = cache.get(&path(piece), 10, fetch).unwrap();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, [piece as u8; 10]);
            // Times of files are coarse on some systems.
            thread::sleep(std::time::Duration::from_millis(20));
        };
        (0..8).for_each(|piece| get(piece, false));
        get(0, true);
        get(8, false);
        assert!(path(0).exists() && !path(1).exists() && path(2).exists());
        // A piece that is not whole is fetched again.
        fs::write(path(3), [1; 4]).unwrap();
        get(3, false);
        let total: u64 = cache.pieces().unwrap().iter().map(|(_, _, length)| length).sum();
        assert!(total <= 80, "{total}");
    }

    #[test]
    fn threads_that_want_the_same_piece_fetch_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PieceCache::new(folder.path(), 1000);
        let path = folder.path().join("datasets--a--b/pieces/etag/0");
        let fetched = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let fetch = || {
                        fetched.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(std::time::Duration::from_millis(50));
                        Ok(vec![7; 5])
                    };
                    cache.get(&path, 5, fetch).unwrap();
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }
}
