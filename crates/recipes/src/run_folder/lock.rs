use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

/// The file that a run locks. It stays, as removing it would let two runs lock files of the same name.
pub(super) const NAME: &str = ".run.lock";

/// Holds a folder for one process, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock(File);

/// What became of an attempt to lock a folder.
#[derive(Debug)]
pub enum Locked {
    /// It is locked by this process.
    Here(FolderLock),
    /// It is locked by another process, whose number may be known.
    Elsewhere(Option<u32>),
}

impl FolderLock {
    /// Tries to lock a folder that exists. A file system without locks counts as one where nobody else is.
    ///
    /// # Errors
    /// If the lock's file cannot be written; the message names the folder.
    pub fn acquire(folder: &Path) -> Result<Locked> {
        let path = folder.join(NAME);
        let refused = || {
            format!(
                "cannot write to the output folder {}; choose another with --output-dir",
                folder.display()
            )
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(refused)?;
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
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(refused)?;
        Ok(Locked::Here(Self(file)))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // The lock ends with the file; the number of a process that is gone would only mislead.
        self.0.set_len(0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_until_it_lets_it_go() {
        let folder = tempfile::tempdir().unwrap();
        let Locked::Here(lock) = FolderLock::acquire(folder.path()).unwrap() else { panic!("it is free") };
        let second = FolderLock::acquire(folder.path()).unwrap();
        assert!(matches!(second, Locked::Elsewhere(Some(pid)) if pid == std::process::id()), "{second:?}");
        drop(lock);
        assert!(matches!(FolderLock::acquire(folder.path()).unwrap(), Locked::Here(_)));
        assert!(super::super::is_free(folder.path()), "the lock's file is nobody's result");
    }

    #[test]
    fn a_folder_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = format!("{:#}", FolderLock::acquire(&file).unwrap_err());
        assert!(error.contains("--output-dir") && error.contains(file.to_str().unwrap()), "{error}");
    }
}
