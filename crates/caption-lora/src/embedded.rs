//! The small checkpoint that is part of the program, so that an installed program works from any folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use twox_hash::XxHash3_64;

use crate::files;

/// The files of the checkpoint: GIT in the layout of transformers, as the example `pretrain_monsters` makes it.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../assets/git-monsters/config.json")),
    ("model.safetensors", include_bytes!("../assets/git-monsters/model.safetensors")),
    ("preprocessor_config.json", include_bytes!("../assets/git-monsters/preprocessor_config.json")),
    ("tokenizer.json", include_bytes!("../assets/git-monsters/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/git-monsters/tokenizer_config.json")),
];

/// The folder of the embedded checkpoint. The first call in a process writes its files to the user's cache
/// folder, or to a temporary folder if that is not writable. Existing files are compared and reused.
///
/// # Errors
/// If neither folder is writable.
pub fn checkpoint() -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder =
        FOLDER.get_or_init(|| unpack_to_first(dirs::cache_dir()).map_err(|error| format!("{error:#}")));
    folder.clone().map_err(|error| anyhow!("cannot unpack the embedded checkpoint: {error}"))
}

/// Unpacks to a folder below `cache`, or else to a temporary folder that is not removed.
fn unpack_to_first(cache: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(cache) = cache {
        let folder = cache.join("caption-lora").join(format!("git-monsters-{:016x}", fingerprint()));
        if unpack(&folder).is_ok() {
            return Ok(folder);
        }
    }
    let folder = tempfile::Builder::new().prefix("caption-lora-").tempdir()?.keep();
    unpack(&folder)?;
    Ok(folder)
}

/// Writes the files that are missing or differ. Each is replaced atomically, because other processes may read
/// them.
fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, contents) in FILES {
        let path = folder.join(name);
        if fs::read(&path).ok().as_deref() != Some(contents) {
            files::replace(&path, contents)?;
        }
    }
    Ok(())
}

/// A hash of all files, so that each version of the checkpoint has its own folder.
fn fingerprint() -> u64 {
    let all: Vec<&[u8]> = FILES.iter().flat_map(|(name, contents)| [name.as_bytes(), *contents]).collect();
    XxHash3_64::oneshot(&all.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_is_unpacked_once_and_mended_where_it_is_damaged() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpack_to_first(Some(cache.path().to_owned())).unwrap();
        assert!(folder.starts_with(cache.path()), "{}", folder.display());
        let config = folder.join("config.json");
        let written = || fs::metadata(&config).unwrap().modified().unwrap();
        let first = written();
        assert_eq!(unpack_to_first(Some(cache.path().to_owned())).unwrap(), folder);
        assert_eq!(written(), first, "an intact file is reused");
        fs::write(&config, "{").unwrap();
        unpack_to_first(Some(cache.path().to_owned())).unwrap();
        assert_eq!(fs::read(&config).unwrap(), FILES[0].1);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder() {
        let cache = tempfile::tempdir().unwrap();
        // A file where the folder should be.
        fs::write(cache.path().join("caption-lora"), "").unwrap();
        let folder = unpack_to_first(Some(cache.path().to_owned())).unwrap();
        assert!(!folder.starts_with(cache.path()), "{}", folder.display());
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), FILES[0].1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_file_of_the_checkpoint_is_embedded() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/git-monsters");
        let mut there: Vec<_> = fs::read_dir(assets)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, FILES.map(|(name, _)| name));
    }
}
