//! Finds downloaded files that were damaged in the cache.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::download::sha256;

/// The first damaged file among downloaded ones, as the path to delete so that it is downloaded again.
///
/// A large file in the cache is named by its SHA-256. Other files are checked only if they are JSON, for completeness.
pub fn damaged(files: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    files.into_iter().find_map(|file| {
        let blob = file.canonicalize().ok()?;
        is_damaged(&file, &blob).then_some(blob)
    })
}

fn is_damaged(file: &Path, blob: &Path) -> bool {
    let name = blob.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return sha256(blob).is_ok_and(|hash| hash != name.to_ascii_lowercase());
    }
    let is_json = file.extension() == Some(OsStr::new("json"));
    is_json && fs::read(blob).is_ok_and(|bytes| serde_json::from_slice::<IgnoredAny>(&bytes).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_what_their_name_or_format_says_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        // The SHA-256 of `abc`.
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (name, bytes, is_damaged) in [
            (hash, "abc", false),
            (hash, "ab", true),
            ("config.json", "{\"a\": 1}", false),
            ("config.json", "{\"a\": ", true),
            ("vocab.txt", "[PAD", false),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let found = damaged([folder.path().join("absent"), path.clone()]);
            assert_eq!(found.is_some(), is_damaged, "{name}: {bytes}");
            fs::remove_file(path).unwrap();
        }
    }
}
