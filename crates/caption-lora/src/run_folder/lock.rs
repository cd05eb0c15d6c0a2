use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

/// The lock file.
pub(super) const NAME: &str = ".run.lock";

/// Locks a folder for one process, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
    /// Whether the file stays on drop: if it was there before, or a run has begun in the folder.
    stays: AtomicBool,
}

/// The result of an attempt to lock a folder.
#[derive(Debug)]
pub enum Locked {
    /// Locked by this process.
    Here(FolderLock),
    /// Locked by another process, whose id may be known.
    Elsewhere(Option<u32>),
}

impl FolderLock {
    /// Tries to lock an existing folder. It also succeeds on a file system without locks.
    ///
    /// # Errors
    /// If the lock file cannot be written; the message names the folder.
    pub fn acquire(folder: &Path) -> Result<Locked> {
        let path = folder.join(NAME);
        let refused = || {
            format!(
                "cannot write to the output folder {}; choose another with --output-dir",
                folder.display()
            )
        };
        loop {
            let was_there = path.exists();
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let mut file = options.open(&path).with_context(refused)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                    return Ok(Locked::Elsewhere(pid));
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(refused),
            }
            if !is_at(&file, &path) {
                // The previous holder removed it in the meantime.
                continue;
            }
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(refused)?;
            return Ok(Locked::Here(Self { file, path, stays: was_there.into() }));
        }
    }

    /// Leaves the lock file in the folder, which belongs to a run now.
    pub fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.stays.load(Ordering::Relaxed) {
            // Closing the file releases the lock; the id of an ended process would be misleading.
            self.file.set_len(0).ok();
        } else {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Whether an open file is still the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Whether an open file is still the one at `path`: other systems do not remove an open file.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_by_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let Locked::Here(lock) = FolderLock::acquire(folder.path()).unwrap() else { panic!("it is free") };
        let second = FolderLock::acquire(folder.path()).unwrap();
        assert!(matches!(second, Locked::Elsewhere(Some(pid)) if pid == std::process::id()), "{second:?}");
        drop(lock);
        assert!(!folder.path().join(NAME).exists(), "no run has begun in the folder");
        let Locked::Here(lock) = FolderLock::acquire(folder.path()).unwrap() else { panic!("it is free") };
        lock.stay();
        drop(lock);
        assert_eq!(std::fs::read_to_string(folder.path().join(NAME)).unwrap(), "");
        assert!(matches!(FolderLock::acquire(folder.path()).unwrap(), Locked::Here(_)));
        assert!(super::super::is_free(folder.path()), "the lock's file is nobody's result");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = format!("{:#}", FolderLock::acquire(&file).unwrap_err());
        assert!(error.contains("--output-dir") && error.contains(file.to_str().unwrap()), "{error}");
    }
}
