//! The manifest of a checkpoint, which marks it as complete: its files with sizes and checksums.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::files::{io_error, read_json, sync, sync_directory, write_json};
use crate::text::with_causes;

pub(super) const NAME: &str = "complete.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// By path relative to the checkpoint, with `/` between directories.
    files: BTreeMap<String, Fingerprint>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Fingerprint {
    bytes: u64,
    crc32: u32,
}

/// Writes the manifest of all files in a directory.
pub(super) fn seal(directory: &Path) -> Result<()> {
    let seal = || -> io::Result<BTreeMap<String, Fingerprint>> {
        let names = files(directory)?;
        names.into_iter().map(|name| Ok((name.clone(), fingerprint(&directory.join(name))?))).collect()
    };
    let files = seal().map_err(io_error("read", directory))?;
    write_json(&directory.join(NAME), &Manifest { files })
}

/// Syncs a directory to disk: each file once, then the names.
pub(super) fn sync_all(directory: &Path) -> Result<()> {
    let sync_all = || -> io::Result<()> {
        let names = files(directory)?;
        // In parallel: a journaling file system then writes all of them together, in a fraction of the time.
        std::thread::scope(|scope| {
            let files: Vec<_> =
                names.iter().map(|name| scope.spawn(move || sync(&directory.join(name)))).collect();
            let result = |file: ScopedJoinHandle<'_, io::Result<()>>| {
                file.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            };
            files.into_iter().try_for_each(result)
        })?;
        for folder in folders(&names) {
            sync_directory(&directory.join(folder))?;
        }
        sync_directory(directory)
    };
    sync_all().map_err(io_error("sync", directory))
}

/// Compares every file with the manifest. The error describes the damage.
pub(super) fn verify(directory: &Path) -> Result<(), String> {
    let path = directory.join(NAME);
    if !directory.is_dir() {
        return Err("there is no such directory".to_owned());
    }
    if !path.exists() {
        return Err(format!(
            "it has no {NAME}: saving it was never finished, or it is not a checkpoint of this engine"
        ));
    }
    let manifest: Manifest = read_json(&path).map_err(|error| with_causes(&error))?;
    for (name, sealed) in &manifest.files {
        let found = fingerprint(&directory.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if found.bytes != sealed.bytes {
            return Err(format!("{name} has {} bytes instead of {}", found.bytes, sealed.bytes));
        }
        if found != *sealed {
            return Err(format!("{name} does not have the checksum that was recorded when it was saved"));
        }
    }
    Ok(())
}

/// Returns the files of a directory that its manifest does not list: the engine did not write them. Empty if there is no
/// readable manifest to compare with.
pub(super) fn unlisted(directory: &Path) -> io::Result<Vec<String>> {
    let Ok(manifest) = read_json::<Manifest>(&directory.join(NAME)) else { return Ok(Vec::new()) };
    let mut names = files(directory)?;
    names.retain(|name| name != NAME && !manifest.files.contains_key(name));
    Ok(names)
}

/// Moves the files that the manifest of `from` does not list to the same relative paths in `to`.
pub(super) fn move_unlisted(from: &Path, to: &Path) -> io::Result<()> {
    for name in unlisted(from)? {
        let path = to.join(&name);
        if path.exists() {
            continue;
        }
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::rename(from.join(&name), path)?;
    }
    Ok(())
}

/// The paths of all files below a directory, relative to it and with `/` between directories.
fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(prefix) = folders.pop() {
        for entry in fs::read_dir(directory.join(&prefix))? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() { folders.push(name + "/") } else { names.push(name) }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The directories that contain these files.
fn folders(names: &[String]) -> Vec<PathBuf> {
    let parents = names.iter().flat_map(|name| Path::new(name).ancestors().skip(1));
    let mut folders: Vec<PathBuf> =
        parents.filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_owned).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Fingerprint { bytes, crc32: hasher.finalize() });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
