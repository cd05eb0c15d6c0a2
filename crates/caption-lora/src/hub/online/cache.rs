//! The cache on disk, in the layout of Python's huggingface_hub, so that both use each other's downloads:
//!
//! ```text
//! models--owner--name/blobs/ETAG               the bytes of a file, named by its ETag
//! models--owner--name/snapshots/COMMIT/NAME    a relative link to a blob
//! models--owner--name/refs/REVISION            the commit that a branch or a tag points to
//! datasets--owner--name/pieces/ETAG/START-END  a part of a file; not in Python's layout
//! models--owner--name/listings/COMMIT.json     the names of all files of a commit; not in Python's layout
//! .locks/models--owner--name/ETAG.lock         held while a blob is written
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Repository;
use super::failure::Failure;

/// The part of the cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &Repository) -> Self {
        let name = repo.folder_name();
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The folder of the pieces of a file.
    pub(super) fn pieces(&self, etag: &str) -> PathBuf {
        self.root.join("pieces").join(etag)
    }

    /// The commit that a branch or a tag points to; a commit is returned unchanged.
    pub(super) fn commit(&self, revision: &str) -> String {
        let commit = fs::read_to_string(self.root.join("refs").join(revision));
        commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned())
    }

    /// The branches and tags in the cache.
    pub(super) fn revisions(&self) -> Vec<String> {
        files(&self.root.join("refs")).unwrap_or_default()
    }

    /// Records the commit that a revision points to. Nothing is written if it is recorded already. If the cache
    /// is not writable, nothing is recorded, because the files are there already.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), Failure> {
        if self.commit(revision) == commit {
            return Ok(());
        }
        record(self.root.join("refs").join(revision), commit)
    }

    /// The names of all files of a commit on the hub, if they were recorded. They never change.
    pub(super) fn listing(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_slice(&fs::read(self.listing_path(commit)).ok()?).ok()
    }

    /// Records the names of all files of a commit, as [`set_ref`](Self::set_ref) records a commit.
    pub(super) fn set_listing(&self, commit: &str, names: &[String]) -> Result<(), Failure> {
        let path = self.listing_path(commit);
        if path.is_file() {
            return Ok(());
        }
        record(path, &serde_json::json!(names).to_string())
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join("listings").join(format!("{commit}.json"))
    }

    /// Prevents other processes from writing a blob until the result is dropped.
    ///
    /// The lock only avoids a second download. It is skipped if the file system has no locks, or if the lock
    /// folder belongs to another user.
    pub(super) fn lock(&self, etag: &str, waiting: impl Fn(&Path)) -> Result<Option<File>, Failure> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = match parent_of(&path).and_then(|_| open()) {
            Ok(file) => file,
            Err(source) if is_read_only(&source) => return Ok(None),
            Err(source) => return Err(Failure::Disk { path, source }),
        };
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {
                    waiting(&path);
                    thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// Makes a file of a commit a link to a blob. If links are not supported, a blob that `is_new` is moved
    /// instead, because no other file can be linked to it yet.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str, is_new: bool) -> Result<(), Failure> {
        let path = self.snapshot(commit).join(name);
        let blob = self.blob(etag);
        let up = "../".repeat(name.split('/').count() + 1);
        let linked = parent_of(&path).and_then(|_| {
            // A broken link, left over from a deleted blob.
            if path.is_symlink() && !path.exists() {
                fs::remove_file(&path)?;
            }
            match symlink(&format!("{up}blobs/{etag}"), &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(_) if is_new => fs::rename(&blob, &path),
                Err(_) => fs::copy(&blob, &path).map(drop),
                Ok(()) => Ok(()),
            }
        });
        linked.map_err(|source| Failure::Disk { path, source })
    }
}

/// Writes a small file, if the cache can be written to.
fn record(path: PathBuf, text: &str) -> Result<(), Failure> {
    let mut new = path.clone().into_os_string();
    new.push(format!(".{}.tmp", std::process::id()));
    // Written under another name first, so that no reader sees an incomplete file.
    let written = parent_of(&path).and_then(|_| fs::write(&new, text)).and_then(|()| fs::rename(&new, &path));
    written.or_else(|source| if is_read_only(&source) { Ok(()) } else { Err(Failure::Disk { path, source }) })
}

/// The relative paths of all files below a folder, sorted.
pub(super) fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    walk(folder, Path::new(""), &mut names)?;
    names.sort();
    Ok(names)
}

fn walk(root: &Path, below: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let path = below.join(entry?.file_name());
        // Follows the links of the cache. A broken one is a missing file.
        let target = root.join(&path);
        if target.is_dir() {
            walk(root, &path, names)?;
        } else if target.exists() {
            let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
    Ok(())
}

/// Creates the parent folder of a file.
pub(super) fn parent_of(path: &Path) -> io::Result<&Path> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    Ok(folder)
}

/// Whether an error means that the cache cannot be written to, because of permissions or the file system.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(unix)]
fn symlink(target: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &str, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), path)
}
