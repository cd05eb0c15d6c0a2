//! Files whose pieces are fetched when they are needed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use caption_data::RemoteFile;
use ureq::http::Uri;

use super::address::shown;
use super::download::content_range;
use super::failure::{Failure, cut, retried};
use super::piece_cache::PieceCache;
use super::{Hub, Repository};

/// The number of pieces that may wait to be fetched ahead.
const AHEAD: usize = 4;

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
