//! Selects the files of a repository that are needed. It uses neither the network nor the disk.

use std::collections::HashSet;

use caption_data::selection::{self, CAPTIONS, Refusal, UNREAD_PICTURES, extension, is_metadata, is_picture};
use caption_data::{LeftOut, LeftOutReason};

use super::{Error, Result, snapshot::Listing};
use crate::save::COMPANIONS;

/// A checkpoint's files: the small ones first, the weights last, so that cached weights mean that the
/// checkpoint is complete.
pub(super) fn model_files(listing: &Listing) -> Result<Vec<String>> {
    checkpoint_files(listing).map_err(|error| match error {
        Error::Lacks { repo, .. } if listing.has("adapter_config.json") => Error::IsAdapter { repo: *repo },
        error => error,
    })
}

fn checkpoint_files(listing: &Listing) -> Result<Vec<String>> {
    listing.require("config.json", "config.json")?;
    if !listing.has("tokenizer.json") {
        listing.require("vocab.txt", "a tokenizer (tokenizer.json or vocab.txt)")?;
    }
    let mut files = listing.present(&COMPANIONS);
    for (name, extension) in [("model", "safetensors"), ("pytorch_model", "bin")] {
        let (whole, index) = (format!("{name}.{extension}"), format!("{name}.{extension}.index.json"));
        if listing.has(&whole) {
            files.push(whole);
            return Ok(files);
        }
        if listing.has(&index) {
            let (start, end) = (format!("{name}-"), format!(".{extension}"));
            let is_shard = |name: &&str| name.starts_with(&start) && name.ends_with(&end);
            let shards: Vec<&str> = listing.names.iter().map(String::as_str).filter(is_shard).collect();
            selection::all_parts(&shards).map_err(|refusal| listing.refuse(refusal))?;
            files.push(index);
            files.extend(shards.into_iter().map(str::to_owned));
            return Ok(files);
        }
    }
    Err(listing.lacks(
        "weights (model.safetensors or pytorch_model.bin, or the index.json of one of them with its shards)",
    ))
}

/// An adapter's files.
pub(super) fn adapter_files(listing: &Listing) -> Result<Vec<String>> {
    let wanted = "a LoRA adapter (adapter_config.json, with adapter_model.safetensors or adapter_model.bin)";
    listing.require("adapter_config.json", wanted)?;
    let weights =
        ["adapter_model.safetensors", "adapter_model.bin"].into_iter().find(|name| listing.has(name));
    let weights = weights.ok_or_else(|| listing.lacks(wanted))?;
    Ok(vec!["adapter_config.json".into(), weights.into()])
}

/// The parquet files of the requested split, by default of the train split, last part first; `None` if the
/// repository has no parquet file at all. They are downloaded in this order, so a cache that has the first part
/// has all of them. Names such as `0000.parquet` do not contain the number of parts.
pub(super) fn parquet_files(listing: &Listing) -> Result<Option<Vec<String>>> {
    let is_table = |name: &&str| extension(name) == "parquet" && !is_metadata(name);
    let parquet = listing.names.iter().map(String::as_str).filter(is_table);
    let parquet: Vec<&str> = parquet.collect();
    if parquet.is_empty() {
        return Ok(None);
    }
    let files = listing.of_split(&parquet)?;
    let mut files: Vec<String> = files.into_iter().map(str::to_owned).collect();
    files.sort_by(|a, b| b.cmp(a));
    Ok(Some(files))
}

/// The tar files of the requested split, by default of the train split, last part first as for
/// [`parquet_files`]; `None` if the repository has no tar files, or also has pictures or metadata.
pub(super) fn tar_files(listing: &Listing) -> Result<Option<Vec<String>>> {
    let names = || listing.names.iter().map(String::as_str).filter(|name| !is_hidden(name));
    let tar: Vec<&str> = names().filter(|name| extension(name) == "tar").collect();
    if tar.is_empty() || names().any(|name| is_picture(name) || is_description(name)) {
        return Ok(None);
    }
    let files = listing.of_split(&tar)?;
    let mut files: Vec<String> = files.into_iter().map(str::to_owned).collect();
    files.sort_by(|a, b| b.cmp(a));
    Ok(Some(files))
}

/// The folder of a dataset that was too large for the hub to convert as a whole, such as
/// `default/partial-train`.
pub(super) fn converted_part(listing: &Listing) -> Option<String> {
    let folders = listing.names.iter().filter_map(|name| Some(name.rsplit_once('/')?.0));
    let mut parts = folders.filter(|folder| folder.split('/').any(|part| part.starts_with("partial-")));
    parts.next().map(str::to_owned)
}

/// The files of captioned images. The reader of the snapshot's folder decides which of them are rows, as for a
/// local folder; unsupported pictures are included so that they can be reported. The pictures come first, so
/// that a cache with the captions also has their pictures.
pub(super) fn image_folder(listing: &Listing) -> Result<Vec<String>> {
    let names: Vec<&str> = listing.names.iter().map(String::as_str).filter(|name| !is_hidden(name)).collect();
    let is_trained_on = selection::image_folder(&names);
    let files: Vec<&str> = names.into_iter().filter(|name| is_trained_on(name)).collect();
    let captioned = stems_of_texts(&files);
    let is_picture = |name: &str| {
        let is_captioned = !is_text(name) && captioned.contains(stem(name));
        is_picture(name) || UNREAD_PICTURES.contains(&extension(name).as_str()) || is_captioned
    };
    let (pictures, others): (Vec<&str>, Vec<&str>) = files.into_iter().partition(|name| is_picture(name));
    let captions = others.into_iter().filter(|name| is_text(name) || is_description(name));
    let has_captions = |name: &&str| is_description(name) || captioned.contains(stem(name));
    let files: Vec<&str> = pictures.iter().copied().chain(captions).collect();
    if pictures.is_empty() || !files.iter().any(has_captions) {
        if listing.names.iter().any(|name| extension(name) == "arrow") {
            return Err(Error::SavedToDisk { repo: listing.repo.clone() });
        }
        return Err(listing.lacks(
            "parquet files, or images with captions (metadata.jsonl, .csv, .parquet or .json, or same-name .txt or .caption files)",
        ));
    }
    Ok(files.into_iter().map(str::to_owned).collect())
}

/// The files of a dataset that [`parquet_files`] did not choose, as counted by the reader of a local folder;
/// none if a split was requested by its name.
pub(super) fn left_out_by_parquet_files(listing: &Listing, chosen: &[String]) -> LeftOut {
    let mut left_out = LeftOut::default();
    if listing.repo.id.split.is_some() {
        return left_out;
    }
    for name in listing.names.iter().filter(|name| !chosen.contains(name)) {
        let is_table = extension(name) == "parquet" && !is_metadata(name);
        if is_table {
            left_out.add(selection::why_not_of_tables(name), name);
        } else if is_picture(name) && is_hidden(name) {
            left_out.add(LeftOutReason::Hidden, name);
        } else if is_picture(name) || is_metadata(name) || extension(name) == "arrow" {
            left_out.add(LeftOutReason::BesideTables, name);
        }
    }
    left_out
}

/// The pictures that [`image_folder`] did not choose, without those that are `there`, in the cache, anyway: the
/// reader of the folder counts these.
pub(super) fn left_out_by_image_folder(listing: &Listing, there: impl Fn(&str) -> bool) -> LeftOut {
    let pictures = listing.names.iter().map(String::as_str).filter(|name| is_picture(name) && !there(name));
    let (hidden, pictures): (Vec<&str>, Vec<&str>) = pictures.partition(|name| is_hidden(name));
    let names: Vec<&str> = listing.names.iter().map(String::as_str).filter(|name| !is_hidden(name)).collect();
    let why_not = selection::why_not_of_image_folder(&names);
    let mut left_out = LeftOut::default();
    hidden.into_iter().for_each(|name| left_out.add(LeftOutReason::Hidden, name));
    for name in pictures {
        if let Some(reason) = why_not(name) {
            left_out.add(reason, name);
        }
    }
    left_out
}

/// Whether captions are in text files beside their pictures, and not in metadata that the hub converts.
pub(super) fn has_text_files(listing: &Listing) -> bool {
    let names: Vec<&str> = listing.names.iter().map(String::as_str).collect();
    let captioned = stems_of_texts(&names);
    let is_captioned = |name: &&str| is_picture(name) && captioned.contains(stem(name));
    names.iter().any(is_captioned) && !names.iter().any(|name| is_metadata(name))
}

/// The files `metadata.json`, unless there are metadata that the hub converts. They describe pictures if they
/// contain an array.
pub(super) fn json_metadata(listing: &Listing) -> Vec<String> {
    if listing.names.iter().any(|name| is_metadata(name)) {
        return Vec::new();
    }
    let is_trained_on = |name: &&String| is_json_metadata(name) && !is_hidden(name);
    listing.names.iter().filter(is_trained_on).cloned().collect()
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
        Error::Lacks {
            repo: Box::new(self.repo.clone()),
            wanted,
            found: self.names.clone(),
            offline: self.offline,
        }
    }

    /// The tables of the requested split, by default of the train split.
    fn of_split<'a>(&self, tables: &[&'a str]) -> Result<Vec<&'a str>> {
        let files = match &self.repo.id.split {
            Some(split) => selection::files_of_split(tables, split),
            None => selection::parquet_files(tables),
        };
        files.map_err(|refusal| self.refuse(refusal))
    }

    /// The error for files of this repository that cannot be trained on.
    fn refuse(&self, refusal: Refusal) -> Error {
        let repo = Box::new(self.repo.clone());
        match refusal {
            Refusal::SeveralConfigurations(configurations) => {
                Error::SeveralConfigurations { repo: *repo, configurations }
            }
            Refusal::NoSplit { split, splits } => Error::NoSplit { repo, split, splits },
            Refusal::Incomplete { set, have, total } => {
                Error::Incomplete { repo, set, have, total, offline: self.offline }
            }
            _ => self.lacks("parquet files of a train split"),
        }
    }
}

/// Whether a file is a caption if a picture has the same name.
fn is_text(name: &str) -> bool {
    CAPTIONS.contains(&extension(name).as_str())
}

fn stems_of_texts<'a>(names: &[&'a str]) -> HashSet<&'a str> {
    names.iter().filter(|name| is_text(name)).map(|name| stem(name)).collect()
}

/// Whether a file is metadata of the pictures in its folder.
fn is_description(name: &str) -> bool {
    is_metadata(name) || is_json_metadata(name)
}

fn is_json_metadata(name: &str) -> bool {
    name.rsplit('/').next() == Some("metadata.json")
}

/// A path without its file extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether a file is hidden, so that folder readers skip it: `.gitattributes`, `.cache/`.
fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}
