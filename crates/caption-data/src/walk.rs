//! The files under a folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, LeftOut, LeftOutReason, Result, selection};

/// The files under a folder, and those that are left out.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// In the order of their paths.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) left_out: LeftOut,
}

/// The pictures under a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pictures {
    /// Their files, in the order of the paths.
    pub paths: Vec<PathBuf>,
    /// Pictures that are hidden or in an unsupported format, and broken links.
    pub left_out: LeftOut,
}

/// Finds the pictures of a folder and its subfolders.
///
/// Links are followed. Hidden files and folders, such as `.ipynb_checkpoints`, folders whose names begin with
/// `__`, such as `__MACOSX`, and folders that systems create, such as `@eaDir`, are left out, and so are broken
/// links.
///
/// # Errors
/// If a folder cannot be read.
pub fn pictures_of(folder: impl AsRef<Path>) -> Result<Pictures> {
    let Files { paths, mut left_out } = walk(folder.as_ref())?;
    let (paths, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_picture(path));
    add_unread_pictures(folder.as_ref(), &others, &mut left_out);
    Ok(Pictures { paths, left_out })
}

/// Adds the pictures in unsupported formats.
pub(crate) fn add_unread_pictures(folder: &Path, files: &[PathBuf], left_out: &mut LeftOut) {
    for file in files {
        let name = name_in(folder, file);
        let extension = selection::extension(&name);
        if selection::UNREAD_PICTURES.contains(&extension.as_str()) {
            left_out.add(LeftOutReason::UnreadKind { extension }, name);
        }
    }
}

/// A file's path relative to its dataset's folder, in the form that [`selection`] reads.
pub(crate) fn name_in(dataset: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(dataset).unwrap_or(file);
    inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Whether a path has one of the given extensions, which are in lower case.
pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

/// Whether a file is an archive by its extension.
pub(crate) fn is_archive(path: &Path) -> bool {
    has_extension(path, &["zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar"])
}

pub(crate) fn is_picture(path: &Path) -> bool {
    selection::is_picture(&path.to_string_lossy())
}

/// All files under a folder except hidden ones.
pub(crate) fn walk(folder: &Path) -> Result<Files> {
    let mut walk = Walk { root: folder, above: Vec::new(), files: Files::default() };
    walk.enter(folder)?;
    walk.files.paths.sort();
    Ok(walk.files)
}

struct Walk<'a> {
    root: &'a Path,
    /// The real paths of the folders that contain the current one: a link to one of them is a loop.
    above: Vec<PathBuf>,
    files: Files,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<()> {
        let real = fs::canonicalize(folder).map_err(at(folder))?;
        if self.above.contains(&real) {
            return Ok(());
        }
        self.above.push(real);
        let entries: std::io::Result<Vec<_>> =
            fs::read_dir(folder).map_err(at(folder))?.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut entries = entries.map_err(at(folder))?;
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.look_at(&path, &name)?;
        }
        self.above.pop();
        Ok(())
    }

    fn look_at(&mut self, path: &Path, name: &str) -> Result<()> {
        if name.starts_with('.') {
            // `._1.png` is a file that macOS writes beside `1.png` on other file systems.
            if is_picture(path) && !name.starts_with("._") {
                self.leave_out(LeftOutReason::Hidden, path);
            }
            return Ok(());
        }
        // Follows links: the hub's cache holds links to files.
        match fs::metadata(path) {
            Ok(kind) if kind.is_dir() && SYSTEM.contains(&name) => {}
            Ok(kind) if kind.is_dir() && name.starts_with("__") => {
                self.leave_out(LeftOutReason::Hidden, path)
            }
            Ok(kind) if kind.is_dir() => self.enter(path)?,
            Ok(_) => self.files.paths.push(path.to_owned()),
            Err(error) if path.is_symlink() && error.kind() != ErrorKind::PermissionDenied => {
                if is_of_a_dataset(path) && is_link_of_the_hub(path) {
                    return Err(at(path)(error));
                }
                // Without an extension it may be a link to a folder of pictures.
                if is_of_a_dataset(path) || path.extension().is_none() {
                    self.leave_out(LeftOutReason::BrokenLink, path);
                }
            }
            Err(error) => return Err(at(path)(error)),
        }
        Ok(())
    }

    fn leave_out(&mut self, reason: LeftOutReason, path: &Path) {
        self.files.left_out.add(reason, name_in(self.root, path));
    }
}

/// Folders that systems and programs create, such as those of thumbnails and deleted files; they contain no
/// pictures of a dataset.
const SYSTEM: [&str; 9] = [
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "@__thumb",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Whether a link is one of the hub's cache, such as `../../blobs/0f3a`. If it is broken, a download is
/// incomplete.
fn is_link_of_the_hub(link: &Path) -> bool {
    let is_blob = |target: PathBuf| {
        target.is_relative() && target.parent().is_some_and(|folder| folder.ends_with("blobs"))
    };
    fs::read_link(link).is_ok_and(is_blob)
}

/// Whether a dataset would be incomplete without this file.
fn is_of_a_dataset(path: &Path) -> bool {
    let name = path.to_string_lossy();
    selection::is_picture(&name)
        || selection::is_metadata(&name)
        || has_extension(path, &["parquet", "arrow"])
        || has_extension(path, &selection::CAPTIONS)
}
