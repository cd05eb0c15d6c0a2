//! Picture files from what a command line names: files, folders and patterns.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use caption_data::selection;

/// The files that `names` stand for, in order: a folder for its pictures and those of its folders, sorted; a pattern with
/// `*`, `?`, `[…]` or `**` for the pictures that match; anything else for itself.
///
/// # Errors
/// If a folder cannot be read, or a folder or pattern holds no pictures.
pub fn expand(names: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names {
        let pattern = name.to_string_lossy();
        let found = if name.is_dir() {
            let mut found = Vec::new();
            collect(name, &mut found)?;
            found.sort();
            found
        } else if !name.exists() && pattern.contains(['*', '?', '[']) {
            let matches = glob::glob(&pattern).with_context(|| format!("`{pattern}` is not a pattern"))?;
            matches.filter_map(Result::ok).filter(|path| path.is_file() && is_picture(path)).collect()
        } else {
            vec![name.clone()]
        };
        if found.is_empty() {
            bail!("no pictures in {pattern}; they end in {}", selection::PICTURES.join(", "));
        }
        files.extend(found);
    }
    Ok(files)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let read = || format!("cannot read the folder {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        // Links are not followed into folders: they may lead back up.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, found)?;
        } else if is_picture(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    selection::is_picture(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_are_their_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("more")).unwrap();
        for name in ["b.png", "a.JPG", "notes.txt", "more/c.webp"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert_eq!(expand(&[dir.path().into()]).unwrap(), [at("a.JPG"), at("b.png"), at("more/c.webp")]);
        assert_eq!(expand(&[at("*.png")]).unwrap(), [at("b.png")]);
        assert_eq!(expand(&[at("**/*")]).unwrap().len(), 3);
        // What is named is taken as it is; that it is no picture shows when it is read.
        assert_eq!(expand(&[at("notes.txt"), at("none.png")]).unwrap(), [at("notes.txt"), at("none.png")]);
        let message = expand(&[at("*.gif")]).unwrap_err().to_string();
        assert!(message.contains("*.gif"), "{message}");
    }
}
