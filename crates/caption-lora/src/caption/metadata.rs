use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::files;

/// The captions as `metadata.jsonl` of an image folder.
pub(super) struct Metadata {
    path: PathBuf,
    /// The pictures' paths relative to the file's folder; `None` for a picture that does not exist.
    names: Vec<Option<String>>,
    lines: Vec<u8>,
}

impl Metadata {
    /// Checks before captioning that the file does not exist yet, and that every picture is below its folder.
    pub(super) fn new(path: &Path, images: &[PathBuf]) -> Result<Self> {
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let root = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        if path.exists() {
            bail!(
                "{} exists; the captions in it may be somebody's work: remove it, or choose another",
                path.display()
            );
        }
        let name = |image: &PathBuf| name_below(folder, &root, image);
        Ok(Self {
            path: path.to_owned(),
            names: images.iter().map(name).collect::<Result<_>>()?,
            lines: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, row: usize, text: &str) -> Result<()> {
        serde_json::to_writer(&mut self.lines, &json!({ "file_name": self.names[row], "text": text }))?;
        self.lines.push(b'\n');
        Ok(())
    }

    pub(super) fn write(&self) -> Result<()> {
        files::replace(&self.path, &self.lines)
    }
}

/// A picture's path relative to `folder`, whose real path is `root`; `None` for a picture that does not exist.
fn name_below(folder: &Path, root: &Path, image: &Path) -> Result<Option<String>> {
    let Ok(real) = image.canonicalize() else { return Ok(None) };
    // A picture in a linked folder is below this one only by its path, not by its real location.
    let Some(inside) = inside(folder, image)?.or_else(|| Some(real.strip_prefix(root).ok()?.into())) else {
        bail!("{} is not below {}, the folder of --metadata", real.display(), root.display())
    };
    let parts = inside.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>();
    let parts = parts.with_context(|| {
        format!("the name of {} is not UTF-8, so --metadata cannot name it: rename it", image.display())
    })?;
    Ok(Some(parts.join("/")))
}

/// The relative path of a file below a folder, judged by the paths alone.
fn inside(folder: &Path, file: &Path) -> Result<Option<PathBuf>> {
    let (folder, file) = (std::path::absolute(folder)?, std::path::absolute(file)?);
    let inside = file.strip_prefix(folder).ok();
    Ok(inside
        .filter(|inside| !inside.components().any(|part| part == Component::ParentDir))
        .map(Path::to_owned))
}
