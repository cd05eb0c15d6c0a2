//! The completeness marker of a checkpoint: what belongs to it, with sizes and checksums. It is written last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::files::{io_error, read_json, sync, sync_directory, write_json};

const NAME: &str = "complete.json";

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

/// Syncs every file of a directory and writes the manifest that says so.
pub(super) fn seal(directory: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    collect(directory, "", &mut files).map_err(io_error("sync", directory))?;
    write_json(&directory.join(NAME), &Manifest { files })
}

/// Reads every file of a sealed directory again; the error says what is wrong.
pub(super) fn verify(directory: &Path) -> Result<(), String> {
    let path = directory.join(NAME);
    if !directory.is_dir() {
        return Err("there is no such directory".to_owned());
    }
    if !path.exists() {
        return Err(format!(
            "it has no {NAME}: writing it was never finished, or it is not a checkpoint of this engine"
        ));
    }
    let manifest: Manifest = read_json(&path).map_err(|error| error.to_string())?;
    for (name, sealed) in &manifest.files {
        let found = fingerprint(&directory.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if found.bytes != sealed.bytes {
            return Err(format!("{name} has {} bytes instead of {}", found.bytes, sealed.bytes));
        }
        if found != *sealed {
            return Err(format!("{name} does not have the checksum it was written with"));
        }
    }
    Ok(())
}

fn collect(directory: &Path, prefix: &str, files: &mut BTreeMap<String, Fingerprint>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            sync(&entry.path())?;
            files.insert(name, fingerprint(&entry.path())?);
        }
    }
    sync_directory(directory)
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
