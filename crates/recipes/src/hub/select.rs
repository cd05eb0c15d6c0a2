//! Which of a repository's files are needed: decisions alone, no network and no disk.

use std::collections::BTreeMap;

use super::{Error, Result, snapshot::Listing};

/// A checkpoint's files: the small ones first, the weights last, so that weights in the cache mean that all is there.
pub(super) fn model_files(listing: &Listing) -> Result<Vec<String>> {
    listing.require("config.json", "config.json")?;
    let mut files = listing.present(&[
        "config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
    ]);
    if !listing.has("tokenizer.json") {
        listing.require("vocab.txt", "a tokenizer (tokenizer.json or vocab.txt)")?;
        files.push("vocab.txt".into());
    }
    if listing.has("model.safetensors") {
        files.push("model.safetensors".into());
    } else if listing.has("model.safetensors.index.json") {
        let is_shard = |name: &&String| name.starts_with("model-") && name.ends_with(".safetensors");
        let shards: Vec<String> = listing.names.iter().filter(is_shard).cloned().collect();
        listing.require_all_parts(&shards)?;
        files.push("model.safetensors.index.json".into());
        files.extend(shards);
    } else {
        listing.require(
            "pytorch_model.bin",
            "weights (model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin)",
        )?;
        files.push("pytorch_model.bin".into());
    }
    Ok(files)
}

/// An adapter's files.
pub(super) fn adapter_files(listing: &Listing) -> Result<Vec<String>> {
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    for file in files {
        listing.require(file, "a LoRA adapter (adapter_config.json and adapter_model.safetensors)")?;
    }
    Ok(files.map(String::from).into())
}

/// The parquet files of the train split, last part first; `None` if the repository has no parquet file at all.
///
/// Downloaded in this order, the first part comes last: a cache that has it has all of them, although names such as
/// `0000.parquet` do not say how many there are.
pub(super) fn parquet_files(listing: &Listing) -> Result<Option<Vec<String>>> {
    let mut files: Vec<String> =
        listing.names.iter().filter(|name| extension(name) == "parquet").cloned().collect();
    if files.is_empty() {
        return Ok(None);
    }
    if files.iter().any(|name| is_train(name)) {
        files.retain(|name| is_train(name));
    } else {
        files.retain(|name| !is_held_out(name));
    }
    let mut configurations = BTreeMap::<_, Vec<String>>::new();
    for file in files {
        configurations.entry(configuration(&file)).or_default().push(file);
    }
    let mut files = match configurations.len() {
        0 => return Err(listing.lacks("parquet files of a train split")),
        1 => configurations.into_values().flatten().collect(),
        _ => match configurations.remove("default") {
            Some(files) => files,
            None => {
                let configurations = configurations.into_keys().collect();
                return Err(Error::SeveralConfigurations { repo: listing.repo.clone(), configurations });
            }
        },
    };
    listing.require_all_parts(&files)?;
    files.sort_by(|a, b| b.cmp(a));
    Ok(Some(files))
}

/// The folder of captioned images, and its files: the images first, so that captions in the cache mean images there.
pub(super) fn image_folder(listing: &Listing) -> Result<(String, Vec<String>)> {
    let wanted =
        "parquet files, or images with captions (metadata.jsonl, metadata.csv or same-name .txt files)";
    let mut candidates: Vec<&String> =
        listing.names.iter().filter(|name| !is_held_out(parent(name))).collect();
    if candidates.iter().any(|name| is_image(name) && is_train(parent(name))) {
        candidates.retain(|name| is_train(parent(name)));
    }
    let is_metadata =
        |name: &str| ["metadata.jsonl", "metadata.csv"].contains(&name.rsplit('/').next().unwrap_or(name));
    let metadata = candidates.iter().find(|name| is_metadata(name)).copied();
    // Without metadata the captions lie beside their images, in whichever folder the first one is.
    let beside = || candidates.iter().find(|name| is_image(name) && listing.has(&with_txt(name))).copied();
    let anchor = metadata.or_else(beside).ok_or_else(|| listing.lacks(wanted))?;
    let folder = parent(anchor);
    let (images, others): (Vec<&String>, Vec<&String>) =
        candidates.into_iter().filter(|name| is_below(name, folder)).partition(|name| is_image(name));
    let captions = others
        .into_iter()
        .filter(|name| if metadata.is_some() { *name == anchor } else { extension(name) == "txt" });
    if images.is_empty() {
        return Err(listing.lacks(wanted));
    }
    let folder = folder.to_owned();
    Ok((folder, images.iter().copied().chain(captions).cloned().collect()))
}

impl Listing {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    fn present(&self, names: &[&str]) -> Vec<String> {
        names.iter().filter(|name| self.has(name)).map(|name| (*name).to_owned()).collect()
    }

    fn require(&self, name: &str, wanted: &'static str) -> Result<()> {
        if self.has(name) { Ok(()) } else { Err(self.lacks(wanted)) }
    }

    fn lacks(&self, wanted: &'static str) -> Error {
        Error::Lacks { repo: self.repo.clone(), wanted, found: self.names.clone(), offline: self.offline }
    }

    /// Refuses a set of numbered files with a gap, such as an interrupted download leaves.
    fn require_all_parts(&self, files: &[String]) -> Result<()> {
        let mut sets = BTreeMap::<_, Vec<usize>>::new();
        for (set, index, total) in files.iter().filter_map(|name| part(name)) {
            sets.entry((set, total)).or_default().push(index);
        }
        for ((set, total), indices) in sets {
            let total = total.unwrap_or_else(|| indices.iter().max().map_or(0, |last| last + 1));
            if indices.len() < total {
                let (repo, set, have) = (self.repo.clone(), set.to_owned(), indices.len());
                return Err(Error::Incomplete { repo, set, have, total, offline: self.offline });
            }
        }
        Ok(())
    }
}

/// Reads `data/train-00001-of-00004-9f0c.parquet` as (`data/train`, 1, Some(4)) and `default/train/0001.parquet` as
/// (`default/train/`, 1, None).
fn part(name: &str) -> Option<(&str, usize, Option<usize>)> {
    let stem = name.rsplit_once('.')?.0;
    if let Some((left, right)) = stem.rsplit_once("-of-") {
        let (set, index) = left.rsplit_once('-')?;
        return Some((set, index.parse().ok()?, Some(right.split('-').next()?.parse().ok()?)));
    }
    let file = stem.rsplit('/').next()?;
    Some((&stem[..stem.len() - file.len()], file.parse().ok()?, None))
}

/// The folder that a configuration's files share, without the folder of the split.
fn configuration(name: &str) -> String {
    let folder = parent(name);
    let (above, last) = folder.rsplit_once('/').unwrap_or(("", folder));
    if is_train(last) { above.into() } else { folder.into() }
}

fn is_train(name: &str) -> bool {
    words(name).any(|word| ["train", "training"].contains(&word))
}

fn is_held_out(name: &str) -> bool {
    const SPLITS: [&str; 8] = ["test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"];
    words(name).any(|word| SPLITS.contains(&word))
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric())
}

fn is_image(name: &str) -> bool {
    ["png", "jpg", "jpeg", "gif", "webp", "bmp"].contains(&extension(name).as_str())
}

fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

fn with_txt(name: &str) -> String {
    name.rsplit_once('.').map(|(stem, _)| format!("{stem}.txt")).unwrap_or_default()
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_below(name: &str, folder: &str) -> bool {
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
