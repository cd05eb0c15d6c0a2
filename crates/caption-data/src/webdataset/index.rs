//! The positions of each sample's files in a tar file.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::{Error, Result, lfs, selection};

/// The samples of a tar file, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The version of this code.
    version: u32,
    /// Size of the tar file in bytes.
    size: u64,
    /// When the tar file was last modified, in nanoseconds since 1970.
    modified: u128,
    pub(super) samples: Vec<Sample>,
}

const VERSION: u32 = 1;

/// The files of one sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// The part of the files' names that they have in common.
    pub(super) key: Box<str>,
    pub(super) picture: Extent,
    /// `.txt`, else `.caption`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Extent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) json: Option<Extent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cls: Option<Extent>,
}

/// Where a file is: its first block of 512 bytes, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent(u32, pub(super) u32);

const BLOCK: u64 = 512;

impl Extent {
    pub(super) fn read(self, path: &Path) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(u64::from(self.0) * BLOCK))?;
        let mut bytes = vec![0; self.1 as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Index {
    /// The index of a tar file. A saved index is used if it belongs to the current version of the file.
    /// Otherwise the index is made in one pass over the file's headers and saved beside the file or, if that is
    /// not writable, in the folder `cache`.
    pub(super) fn of(path: &Path, cache: Option<&Path>) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(io)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (size, modified) = (metadata.len(), modified.map_or(0, |time| time.as_nanos()));
        let places: Vec<PathBuf> =
            [Some(beside(path)), cache.map(|folder| in_cache(folder, path))].into_iter().flatten().collect();
        let saved = places.iter().find_map(|place| {
            let index: Self = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
            let is_current = (index.version, index.size, index.modified) == (VERSION, size, modified);
            is_current.then_some(index)
        });
        if let Some(index) = saved {
            return Ok(index);
        }
        let index = Self { version: VERSION, size, modified, samples: samples(path, size)? };
        // If no folder is writable, the next run makes the index again.
        let _ = places.iter().any(|place| index.save(place).is_ok());
        Ok(index)
    }

    fn save(&self, place: &Path) -> std::io::Result<()> {
        let folder = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Written under another name first, so that a concurrent run never reads an incomplete index.
        let partial = place.with_extension(format!("partial-{}", std::process::id()));
        let written = File::create_new(&partial)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(self)?))
            .and_then(|()| fs::rename(&partial, place));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".index.json");
    path.with_file_name(name)
}

fn in_cache(folder: &Path, path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let hash = XxHash3_128::oneshot(absolute.as_os_str().as_encoded_bytes());
    folder.join(format!("{hash:032x}.index.json"))
}

/// The files of a sample whose picture may follow later.
#[derive(Default)]
struct Begun {
    key: String,
    picture: Option<Extent>,
    text: Option<Extent>,
    caption: Option<Extent>,
    json: Option<Extent>,
    cls: Option<Extent>,
}

impl Begun {
    fn finish(self, broken: impl Fn(String) -> Error) -> Result<Option<Sample>> {
        let Self { key, picture, text, caption, json, cls } = self;
        if key.is_empty() {
            return Ok(None);
        }
        let picture = picture.ok_or_else(|| broken(format!("the sample `{key}` has no picture")))?;
        Ok(Some(Sample { key: key.into(), picture, text: text.or(caption), json, cls }))
    }
}

/// Reads the headers of all files of a tar file of `size` bytes.
fn samples(path: &Path, size: u64) -> Result<Vec<Sample>> {
    let broken = |why: String| Error::Tar { path: path.to_owned(), why };
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    lfs::check_start(path, &file)?;
    let damaged = |error: std::io::Error| {
        broken(format!("it is not a tar file, or it is damaged ({error}); download or write it again"))
    };
    let mut archive = tar::Archive::new(file);
    let (mut samples, mut keys, mut begun, mut end) = (Vec::new(), HashSet::new(), Begun::default(), 0);
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let (start, length) = (entry.raw_file_position(), entry.size());
        end = (start + length).next_multiple_of(BLOCK);
        if end > size {
            return Err(cut_short(path));
        }
        let name = entry.path_bytes();
        let name = String::from_utf8_lossy(&name);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (folder, file) =
            name.rsplit_once('/').map_or(("", &*name), |(_, file)| (&name[..name.len() - file.len()], file));
        let Some((stem, extension)) = file.split_once('.').filter(|(stem, _)| !stem.is_empty()) else {
            continue;
        };
        let key = format!("{folder}{stem}");
        if key != begun.key {
            let before = std::mem::replace(&mut begun, Begun { key: key.clone(), ..Begun::default() });
            samples.extend(before.finish(broken)?);
            if !keys.insert(key.clone()) {
                let why = format!(
                    "files of the sample `{key}` are in two places; those of a sample must follow each other"
                );
                return Err(broken(why));
            }
        }
        let extent = extent(start, length).ok_or_else(|| broken(format!("`{name}` is too large")))?;
        let extension = extension.to_ascii_lowercase();
        let place = match extension.as_str() {
            "txt" => &mut begun.text,
            "caption" => &mut begun.caption,
            "json" => &mut begun.json,
            "cls" => &mut begun.cls,
            extension if selection::PICTURES.contains(&extension) => &mut begun.picture,
            _ => continue,
        };
        if place.replace(extent).is_some() {
            let what = if selection::is_picture(&name) {
                "pictures".to_owned()
            } else {
                format!("files .{extension}")
            };
            return Err(broken(format!("the sample `{key}` has two {what}")));
        }
    }
    samples.extend(begun.finish(broken)?);
    // Blocks of zeros mark the end; without them, files may be missing.
    if end + BLOCK > size {
        return Err(cut_short(path));
    }
    Ok(samples)
}

fn extent(start: u64, length: u64) -> Option<Extent> {
    Some(Extent(u32::try_from(start / BLOCK).ok()?, u32::try_from(length).ok()?))
}

fn cut_short(path: &Path) -> Error {
    Error::Tar {
        path: path.to_owned(),
        why: "the tar file is cut short; download or write it again".to_owned(),
    }
}
