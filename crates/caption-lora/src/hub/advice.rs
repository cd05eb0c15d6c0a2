//! Parts of error messages about the hub.

use std::{io, path::Path};

use super::{Proxy, Repository};

/// The reason for a request to the hub, for errors in which not even the list of files was received: the user
/// may have meant a local path.
pub(super) fn sought(repo: &Repository, file: Option<&str>) -> String {
    match file {
        None => format!("{}, so it was looked for on the hub: ", not_local(repo)),
        Some(_) => String::new(),
    }
}

pub(super) fn not_local(repo: &Repository) -> String {
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    format!("there is no file or folder `{}` in {}", repo.id, here.display())
}

/// The proxy of a request.
pub(super) fn through(proxy: Option<&Proxy>) -> String {
    proxy.map(|proxy| format!(" through {proxy}")).unwrap_or_default()
}

/// Advice about a failed connection.
pub(super) fn connect(proxy: Option<&Proxy>) -> String {
    match proxy {
        Some(Proxy { variable, .. }) => format!(
            "check that the proxy runs, correct or unset {variable}, or name the host in NO_PROXY to reach it without \
             the proxy"
        ),
        None => "check the network, or set HF_ENDPOINT to a mirror".into(),
    }
}

/// Whether the cache can be used without a connection.
pub(super) fn cached(cached: bool, cache: &Path) -> String {
    if cached {
        "the cache has another copy, which HF_HUB_OFFLINE=1 uses".into()
    } else {
        format!("the cache {} has no complete copy", cache.display())
    }
}

/// Advice about a cache that cannot be read or written.
pub(super) fn disk(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set HF_HUB_CACHE to a folder on another disk, and run again to continue"
        }
        _ => "; set HF_HUB_CACHE to another folder, or remove what is in the way",
    }
}

/// The splits of a dataset that lacks the requested one.
pub(super) fn no_split(split: &str, splits: &[String]) -> String {
    match splits {
        [] => format!(
            "the split `{split}` cannot be chosen, because its files are neither parquet nor tar files: download it, and give the folder of the split"
        ),
        splits => format!("there is no split `{split}`; there are {}", splits.join(", ")),
    }
}

/// The hub id in the address of a hub page.
pub(super) fn page(text: &str) -> String {
    let Some((_, address)) = text.split_once("://") else { return String::new() };
    let parts: Vec<&str> = address.split(['/', '?', '#']).skip(1).collect();
    match parts.as_slice() {
        ["datasets" | "models", owner, name, ..] | [owner, name, ..] => {
            format!("; the id in this address is `{owner}/{name}`")
        }
        _ => String::new(),
    }
}

/// The folder in which a relative path was searched.
pub(super) fn beside(text: &str, folder: &Path) -> String {
    if Path::new(text).is_absolute() { String::new() } else { format!(" in {}", folder.display()) }
}

/// The file of a repository to which a message refers.
pub(super) fn of_file(file: &Option<String>) -> String {
    file.as_ref().map(|name| format!(", file {name}")).unwrap_or_default()
}

/// The place in which files were searched.
pub(super) fn place(offline: bool) -> &'static str {
    if offline { "in the cache (HF_HUB_OFFLINE is set: unset it to download the rest)" } else { "there" }
}

/// The other revisions in the cache.
pub(super) fn known(revisions: &[String]) -> String {
    if revisions.is_empty() {
        String::new()
    } else {
        format!("; the cache has other revisions of it: {}", list(revisions))
    }
}

/// The first names of a list, and the number of the others.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    if text.is_empty() { "nothing".into() } else { text }
}
