//! Which of a repository's files are needed: decisions alone, no network and no disk.

use caption_data::selection::{self, Refusal, extension, is_metadata, is_picture, parent};

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
        let shards: Vec<&str> = listing.names.iter().filter(is_shard).map(String::as_str).collect();
        selection::all_parts(&shards).map_err(|refusal| listing.refuse(refusal))?;
        files.push("model.safetensors.index.json".into());
        files.extend(shards.into_iter().map(str::to_owned));
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
    let parquet = listing.names.iter().map(String::as_str).filter(|name| extension(name) == "parquet");
    let parquet: Vec<&str> = parquet.collect();
    if parquet.is_empty() {
        return Ok(None);
    }
    let files = selection::parquet_files(&parquet).map_err(|refusal| listing.refuse(refusal))?;
    let mut files: Vec<String> = files.into_iter().map(str::to_owned).collect();
    files.sort_by(|a, b| b.cmp(a));
    Ok(Some(files))
}

/// The folder of captioned images, and its files: the images first, so that captions in the cache mean images there.
pub(super) fn image_folder(listing: &Listing) -> Result<(String, Vec<String>)> {
    let wanted =
        "parquet files, or images with captions (metadata.jsonl, metadata.csv or same-name .txt files)";
    let names: Vec<&str> = listing.names.iter().map(String::as_str).collect();
    let is_trained_on = selection::image_folder(&names);
    let candidates: Vec<&str> = names.into_iter().filter(|name| is_trained_on(name)).collect();
    let metadata = candidates.iter().copied().find(|name| is_metadata(name));
    // Without metadata the captions lie beside their images, in whichever folder the first one is.
    let beside = || candidates.iter().copied().find(|name| is_picture(name) && listing.has(&with_txt(name)));
    let anchor = metadata.or_else(beside).ok_or_else(|| listing.lacks(wanted))?;
    let folder = parent(anchor);
    let (images, others): (Vec<&str>, Vec<&str>) =
        candidates.into_iter().filter(|name| is_below(name, folder)).partition(|name| is_picture(name));
    let captions = others
        .into_iter()
        .filter(|name| if metadata.is_some() { *name == anchor } else { extension(name) == "txt" });
    if images.is_empty() {
        return Err(listing.lacks(wanted));
    }
    Ok((folder.to_owned(), images.iter().copied().chain(captions).map(str::to_owned).collect()))
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

    /// Says of this repository why its files cannot be trained on.
    fn refuse(&self, refusal: Refusal) -> Error {
        let repo = self.repo.clone();
        match refusal {
            Refusal::SeveralConfigurations(configurations) => {
                Error::SeveralConfigurations { repo, configurations }
            }
            Refusal::Incomplete { set, have, total } => {
                Error::Incomplete { repo, set, have, total, offline: self.offline }
            }
            _ => self.lacks("parquet files of a train split"),
        }
    }
}

fn with_txt(name: &str) -> String {
    name.rsplit_once('.').map(|(stem, _)| format!("{stem}.txt")).unwrap_or_default()
}

fn is_below(name: &str, folder: &str) -> bool {
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
