use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use tempfile::{Builder, NamedTempFile, TempPath};
use twox_hash::XxHash3_128;

use super::segment::{self, Layout, Segment, WriteError};

/// Extensions of feature files: complete ones, and those that are still being written.
const WHOLE: &str = ".safetensors";
const PARTIAL: &str = ".features.partial";
/// The number of feature files that stay open. Systems allow a process 256 to 1,024 files, and a million pictures have 4,000.
pub(super) const MOST_OPEN: usize = 64;
/// A partial file that has not been written to for this long belongs to a killed run.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The path of a feature file, and the open file.
pub(super) type Found = (PathBuf, Segment);

/// Opens the complete files of an encoder's features in a folder, which may be missing. Also returns the faults
/// of other files with this encoder's name. Removes the partial files of killed runs.
pub(super) fn open(folder: &Path, layout: Layout, encoder: u128) -> Result<(Vec<Found>, Vec<String>)> {
    let read = || format!("cannot read the folder of image features {}", folder.display());
    let paths = match files(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        paths => paths.with_context(read)?,
    };
    clear_abandoned(&paths);
    let (mut segments, mut damaged) = (Vec::new(), Vec::new());
    for path in paths {
        let name = name(&path);
        if name.starts_with(&format!("{encoder:032x}-")) && name.ends_with(WHOLE) {
            match Segment::open(&path, layout, encoder) {
                Ok(mut segment) => {
                    if segments.len() >= MOST_OPEN {
                        segment.close();
                    }
                    segments.push((path, segment));
                }
                // The file was deleted after the folder was listed, which its owner may do.
                Err(_) if !path.exists() => {}
                Err(error) => damaged.push(format!("{} is of no use: {error:#}", path.display())),
            }
        }
    }
    Ok((segments, damaged))
}

/// Updates the modification time of the `used` files, so that it shows when each was last needed. Returns the
/// bytes of all others in the folder.
pub(super) fn mark_used(folder: &Path, used: &BTreeSet<PathBuf>) -> u64 {
    for path in used {
        // Ignored if the user may not write to the folder.
        let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }
    let others = files(folder).unwrap_or_default().into_iter().filter(|path| !used.contains(path));
    let sizes = others.filter(|path| is_whole(&name(path))).filter_map(|path| fs::metadata(path).ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// Whether this is the name of a complete feature file, of any encoder.
fn is_whole(name: &str) -> bool {
    let is_hash = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hashes = name.strip_suffix(WHOLE).and_then(|name| name.split_once('-'));
    hashes.is_some_and(|(encoder, pictures)| is_hash(encoder) && is_hash(pictures))
}

/// The files of a folder, sorted.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Removes the partial files of killed runs.
fn clear_abandoned(paths: &[PathBuf]) {
    for path in paths.iter().filter(|path| name(path).ends_with(PARTIAL)) {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > ABANDONED) {
            // Harmless if it cannot be removed.
            let _ = fs::remove_file(path);
        }
    }
}

/// A temporary file in the folder. It is removed when dropped, unless it is renamed.
fn partial(folder: &Path) -> io::Result<NamedTempFile> {
    fs::create_dir_all(folder)?;
    let mut builder = Builder::new();
    builder.prefix(".").suffix(PARTIAL);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Writes a permanent file of the features of `pictures`: under another name, synced, then renamed. Two runs
/// that write the same features at the same time write the same file.
pub(super) fn write(
    folder: &Path,
    layout: Layout,
    encoder: u128,
    pictures: &[u128],
    features: &mut impl Iterator<Item = Result<Tensor>>,
) -> Result<Segment> {
    let all: Vec<u8> = pictures.iter().flat_map(|picture| picture.to_le_bytes()).collect();
    let path = folder.join(format!("{encoder:032x}-{:032x}{WHOLE}", XxHash3_128::oneshot(&all)));
    let mut file = partial(folder).map_err(cannot_write(folder))?;
    segment::write(&mut file, layout, encoder, pictures, features).map_err(cannot_write(folder))?;
    file.as_file().sync_all().map_err(cannot_write(folder))?;
    file.persist(&path).map_err(|error| cannot_write(folder)(error.error))?;
    Segment::open(&path, layout, encoder)
}

/// Writes a temporary file of the features of `pictures`. It disappears when the process ends, or when the
/// returned path is dropped, which must be after the segment.
pub(super) fn write_temporary(
    folder: &Path,
    layout: Layout,
    pictures: &[u128],
    features: &mut impl Iterator<Item = Result<Tensor>>,
) -> Result<(Segment, TempPath)> {
    clear_abandoned(&files(folder).unwrap_or_default());
    let mut file = partial(folder).map_err(cannot_write(folder))?;
    segment::write(&mut file, layout, 0, pictures, features).map_err(cannot_write(folder))?;
    let mut path = file.into_temp_path();
    let segment = Segment::open(&path, layout, 0)?;
    // If the system allows it, the name is removed now and the open file keeps the content, so that no file
    // remains, however the process ends.
    path.disable_cleanup(fs::remove_file(&path).is_ok());
    Ok((segment, path))
}

/// Adds to the error for a full disk what takes the space, and a remedy.
fn cannot_write<E: Into<WriteError>>(folder: &Path) -> impl Fn(E) -> anyhow::Error {
    move |error| {
        match error.into() {
        WriteError::Features(error) => error,
        WriteError::Io(error) => anyhow::Error::new(error).context(format!(
            "cannot write image features to {}; use another --feature-cache-dir, a larger --feature-cache-memory or --no-feature-cache",
            folder.display()
        )),
    }
    }
}
