use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use super::RECORD;

/// The lock file.
pub(super) const NAME: &str = ".run.lock";
/// The first word of a lock file; the id of the process follows.
const PROGRAM: &str = "pokemon_finetune";
/// A lock file is shorter than this.
const LONGEST: u64 = 100;

/// Locks a folder for one process, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
    /// Whether the file is kept on drop, because it existed before or a run has begun in the folder.
    stays: AtomicBool,
    /// The folders that were created for the lock, the deepest first. They are removed with it.
    created: Vec<PathBuf>,
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
    /// Creates a folder if it is missing, and tries to lock it. If no run begins in it, the created folders
    /// are removed again when the lock is dropped.
    ///
    /// # Errors
    /// If the folder cannot be created, and as [`acquire`](Self::acquire).
    pub fn create(folder: &Path) -> Result<Locked> {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<PathBuf> = folder.ancestors().take_while(is_missing).map(Path::to_owned).collect();
        fs::create_dir_all(folder).with_context(|| {
            format!("cannot make the output folder {}; choose another with --output-dir", folder.display())
        })?;
        let mut locked = Self::acquire(folder)?;
        if let Locked::Here(lock) = &mut locked {
            lock.created = missing;
        }
        Ok(locked)
    }

    /// Tries to lock an existing folder. It also succeeds on a file system without locks.
    ///
    /// # Errors
    /// If the lock file cannot be written, or if there is a file under its name that no run wrote; the
    /// message names the folder.
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
                    return Ok(Locked::Elsewhere(text(&file).and_then(|text| process(&text))));
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(refused),
            }
            if !is_at(&file, &path) {
                // The previous holder removed it in the meantime.
                continue;
            }
            if !is_of_a_run(&file, folder) {
                bail!(
                    "{} is a file that no run wrote, and a run locks its folder with a file of this name: move it away, or choose \
                     another --output-dir",
                    path.display()
                );
            }
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{PROGRAM} {}", std::process::id()))
                .with_context(refused)?;
            return Ok(Locked::Here(Self { file, path, stays: was_there.into(), created: Vec::new() }));
        }
    }

    /// Keeps the lock file in the folder on drop, because a run has begun there.
    pub fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.stays.load(Ordering::Relaxed) {
            // Closing the file releases the lock; the id of an ended process would be misleading.
            self.file.set_len(0).ok();
            return;
        }
        fs::remove_file(&self.path).ok();
        for folder in &self.created {
            // This fails if the folder contains other files by now.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Whether the entry of a folder is the lock file of a run.
pub(super) fn is_lock(entry: &Path) -> bool {
    let folder = entry.parent().unwrap_or(Path::new(""));
    entry.file_name().is_some_and(|name| name == NAME)
        && File::open(entry).is_ok_and(|file| is_of_a_run(&file, folder))
}

/// Whether a run wrote this lock file in `folder`. It is empty when its run has ended.
fn is_of_a_run(file: &File, folder: &Path) -> bool {
    let Some(text) = text(file) else { return false };
    let text = text.trim();
    // Earlier versions wrote the id alone, as other programs do.
    let is_earlier = || text.parse::<u32>().is_ok() && folder.join(RECORD).is_file();
    text.is_empty() || process(text).is_some() || is_earlier()
}

/// The beginning of a file, if it is text.
fn text(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The id in the text of a lock file.
fn process(text: &str) -> Option<u32> {
    text.strip_prefix(PROGRAM)?.trim().parse().ok()
}

/// Whether an open file is still the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
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
        assert_eq!(fs::read_to_string(folder.path().join(NAME)).unwrap(), "");
        assert!(matches!(FolderLock::acquire(folder.path()).unwrap(), Locked::Here(_)));
        assert!(super::super::is_free(folder.path()), "the lock's file is nobody's result");
    }

    #[test]
    fn the_lock_of_a_killed_run_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, "pokemon_finetune 1234567\n").unwrap();
        let Locked::Here(lock) = FolderLock::acquire(folder.path()).unwrap() else { panic!("it is free") };
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{PROGRAM} {}\n", std::process::id()));
        drop(lock);
        // As an earlier version wrote it.
        fs::write(&path, "1234567\n").unwrap();
        fs::write(folder.path().join(RECORD), "{}").unwrap();
        assert!(matches!(FolderLock::acquire(folder.path()).unwrap(), Locked::Here(_)));
    }

    #[test]
    fn a_file_of_the_user_under_the_name_of_the_lock_is_kept() {
        for content in ["my notes", "1234\n", "pokemon_finetune and me", "\u{fffd}"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(NAME);
            fs::write(&path, content).unwrap();
            let error = FolderLock::acquire(folder.path()).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert!(!super::super::is_free(folder.path()));
        }
    }

    #[test]
    fn folders_in_which_no_run_begins_are_removed_again() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("runs/new");
        drop(FolderLock::create(&new).unwrap());
        assert!(!folder.path().join("runs").exists() && folder.path().is_dir());
        fs::create_dir(folder.path().join("runs")).unwrap();
        drop(FolderLock::create(&new).unwrap());
        assert!(!new.exists() && folder.path().join("runs").is_dir(), "it was there before");

        let Locked::Here(lock) = FolderLock::create(&new).unwrap() else { panic!("it is free") };
        fs::write(new.join("mine"), "").unwrap();
        drop(lock);
        assert!(new.join("mine").is_file());
        let other = folder.path().join("other");
        let Locked::Here(lock) = FolderLock::create(&other).unwrap() else { panic!("it is free") };
        lock.stay();
        drop(lock);
        assert!(other.is_dir());
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = format!("{:#}", FolderLock::acquire(&file).unwrap_err());
        assert!(error.contains("--output-dir") && error.contains(file.to_str().unwrap()), "{error}");
    }
}
