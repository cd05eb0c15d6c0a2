//! Opens adapters, and compares them with the model that they are used with.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Pretrained, check_hidden, damaged_file, say_commit, warn_of_outage};
use crate::folders;
use crate::hub::{Hub, Location, is_commit};
use crate::terminal::warn;

/// An adapter's folder, and its origin.
#[derive(Clone, Debug)]
pub struct AdapterFolder {
    /// The folder.
    pub dir: PathBuf,
    /// The commit, for an adapter of the hub.
    pub commit: Option<String>,
}

/// The folder of the adapter that `flag` names, downloaded if it is on the hub.
///
/// # Errors
/// If it is missing or damaged. The message names the flag.
pub fn adapter(location: &Location, flag: &str) -> Result<AdapterFolder> {
    match location {
        Location::Embedded => bail!("{flag}: there is no embedded adapter: give a folder or a hub id"),
        Location::Local(dir) => {
            folders::check_adapter(dir, flag)?;
            check_hidden(location, &dir.join("adapter_config.json"))?;
            Ok(AdapterFolder { dir: dir.clone(), commit: None })
        }
        Location::Hub(id) => {
            let fetched = Hub::from_env()?.adapter_dir(id).context(flag.to_owned())?;
            warn_of_outage(id, &fetched.commit, fetched.outage.as_deref());
            let names = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];
            if let Some(damage) = damaged_file(names.map(|name| fetched.folder.join(name))) {
                bail!("{flag} {id}: {damage}");
            }
            Ok(AdapterFolder { dir: fetched.folder, commit: Some(fetched.commit) })
        }
    }
}

/// The folder of the adapter that `--adapter` names, as [`adapter`] without its commit.
///
/// # Errors
/// As [`adapter`].
pub fn adapter_dir(location: &Location) -> Result<PathBuf> {
    Ok(adapter(location, "--adapter")?.dir)
}

/// The folder of the adapter that `--adapter` names, for use with a model. Prints the adapter's commit if it is
/// on the hub, and a warning if it was trained on another commit of the model.
///
/// # Errors
/// As [`adapter`].
pub fn adapter_for(pretrained: &Pretrained, location: &Location) -> Result<PathBuf> {
    let AdapterFolder { dir, commit } = adapter(location, "--adapter")?;
    say_commit("adapter", location, commit.as_deref());
    if let Some(warning) = another_base(&dir, &pretrained.name, pretrained.commit.as_deref()) {
        warn(warning);
    }
    Ok(dir)
}

/// A warning if the adapter in the folder `dir` was trained on another commit of the model `name` than `commit`.
/// Only an adapter whose configuration names the commit by its full hash can be compared.
pub fn another_base(dir: &Path, name: &str, commit: Option<&str>) -> Option<String> {
    let config = folders::adapter_config(dir)?;
    let trained_on = config["revision"].as_str().filter(|revision| is_commit(revision))?;
    let commit = commit?;
    let is_other = config["base_model_name_or_path"].as_str() == Some(name) && trained_on != commit;
    is_other.then(|| {
        format!(
            "the adapter was trained on commit {trained_on} of {name}, and commit {commit} is used, whose weights may \
             differ: --model {name}@{trained_on} is the model that it belongs to"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_another_commit_of_the_same_base_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = ("0a".repeat(20), "0b".repeat(20));
        let (old, new) = (old.as_str(), new.as_str());
        let warning = |revision: Option<&str>, name: &str, commit: Option<&str>| {
            let config = json!({ "base_model_name_or_path": "a/b", "revision": revision });
            std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
            another_base(folder.path(), name, commit)
        };
        let text = warning(Some(old), "a/b", Some(new)).unwrap();
        assert!(text.contains(&format!("commit {old} of a/b, and commit {new}")), "{text}");
        assert!(text.contains(&format!("--model a/b@{old}")), "{text}");
        for (revision, name, commit) in [
            (Some(old), "a/b", Some(old)),
            (Some(old), "a/other", Some(new)),
            (Some(old), "a/b", None),
            (Some("main"), "a/b", Some(new)),
            (None, "a/b", Some(new)),
        ] {
            assert_eq!(warning(revision, name, commit), None);
        }
    }
}
