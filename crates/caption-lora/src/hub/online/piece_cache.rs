//! The part of the cache with pieces of files, which has a limit:
//!
//! ```text
//! datasets--owner--name/pieces/ETAG/START-END     bytes of the file with this ETag
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::SystemTime;

use super::cache::parent_of;
use super::failure::Failure;

/// The size of a piece, unless the limit has room for few of them.
const PIECE: u64 = 8 << 20;
/// The least number of pieces that the limit has room for.
const FEWEST: u64 = 8;

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
    pub(super) fn get(
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

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
