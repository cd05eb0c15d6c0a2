//! Opens checkpoints and datasets from any location.

mod adapter;
mod dataset;
mod finite;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use caption_data::{CaptionTokenizer, ImageProcessor};
use caption_model::CaptionCheckpoint;
use captioner::{open_checkpoint, start_token};

use crate::embedded;
use crate::folders;
use crate::hub::{self, Fetched, Hub, Location, RepoId};
use crate::terminal::{say_error, warn};

pub use adapter::{AdapterFolder, adapter, adapter_dir, adapter_for, another_base};
pub use dataset::{Dataset, dataset, dataset_within};

/// The contents of a checkpoint's folder.
pub struct Pretrained {
    /// The requested name, without a revision.
    pub name: String,
    /// The commit, for a checkpoint of the hub.
    pub commit: Option<String>,
    /// The folder.
    pub dir: PathBuf,
    /// The weights and their configuration.
    pub checkpoint: Box<dyn CaptionCheckpoint>,
    /// Converts captions to token ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Converts pictures to pixel values.
    pub processor: ImageProcessor,
}

impl Pretrained {
    /// Prints the commit of a checkpoint of the hub to standard error.
    pub fn say_commit(&self) {
        say_commit("model", &self.name, self.commit.as_deref());
    }
}

/// Opens a checkpoint, downloading it if it is on the hub.
///
/// # Errors
/// If it is missing or damaged, if a weight is NaN or infinite, or if its parts do not fit each other.
pub fn pretrained(location: &Location) -> Result<Pretrained> {
    match location {
        Location::Embedded => checkpoint(embedded::checkpoint()?, location.to_string(), None),
        Location::Local(dir) => {
            folders::check_checkpoint(dir)?;
            check_hidden(location, &dir.join("config.json"))?;
            checkpoint(dir.clone(), location.to_string(), None)
        }
        Location::Hub(id) => {
            let hub = Hub::from_env()?;
            let fetched = hub.model_dir(id).map_err(|error| with_base(&hub, id, error))?;
            let Fetched { folder, commit, outage } = fetched;
            warn_of_outage(id, &commit, outage.as_deref());
            let opened = folders::check_checkpoint(&folder)
                .and_then(|()| checkpoint(folder.clone(), id.name.clone(), Some(commit)));
            opened.map_err(|error| {
                let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
                or_damaged(error, entries.map(|entry| entry.path()))
            })
        }
    }
}

/// The checkpoint in a folder.
fn checkpoint(dir: PathBuf, name: String, commit: Option<String>) -> Result<Pretrained> {
    let checkpoint = open_checkpoint(&dir)?;
    finite::check(checkpoint.as_ref())?;
    let tokens = checkpoint.tokens();
    let mut tokenizer = CaptionTokenizer::from_pretrained(&dir)?.limited_to(tokens.max_length)?;
    if let Some(start) = start_token(checkpoint.as_ref()) {
        tokenizer = tokenizer.starting_with(start);
    }
    let processor = ImageProcessor::from_pretrained(&dir)?;
    let (words, rows) = (tokenizer.vocab_size(), tokens.vocab_size);
    if words > rows {
        bail!(
            "the tokenizer in {} has {words} tokens, but the model's vocabulary has {rows}; they belong to different models",
            dir.display()
        );
    }
    let size = checkpoint.caption_config().image_size();
    if let Some(output) = processor.output_size()
        && output != (size, size)
    {
        bail!(
            "{} makes pictures of {output:?}, but config.json needs ({size}, {size})",
            ImageProcessor::file(&dir).display()
        );
    }
    Ok(Pretrained { name, commit, dir, checkpoint, tokenizer, processor })
}

/// The error for a model that cannot be downloaded. For an adapter, it names the base model and the flags.
fn with_base(hub: &Hub, id: &RepoId, error: hub::Error) -> anyhow::Error {
    if !matches!(error, hub::Error::IsAdapter { .. }) {
        return error.into();
    }
    let base = hub.adapter_dir(id).ok().and_then(|fetched| folders::base_of(&fetched.folder));
    let base = base.unwrap_or_else(|| "the model that it was trained on".to_owned());
    anyhow!(
        "--model {id} is an adapter and no checkpoint: give --model {base}, and the adapter as --adapter {id} (in training \
         --init-adapter {id})"
    )
}

/// Adds to an error which of the downloaded `files` is damaged, if one is.
fn or_damaged(error: anyhow::Error, files: impl IntoIterator<Item = PathBuf>) -> anyhow::Error {
    match damaged_file(files) {
        Some(damage) => error.context(damage),
        None => error,
    }
}

/// The first damaged one of some downloaded files, and what to do.
fn damaged_file(files: impl IntoIterator<Item = PathBuf>) -> Option<String> {
    let path = hub::damaged(files)?;
    Some(format!(
        "a downloaded file is damaged in the cache: delete {} and run again to download it anew",
        path.display()
    ))
}

/// Prints the commit of something on the hub to standard error.
fn say_commit(kind: &str, name: impl Display, commit: Option<&str>) {
    if let Some(commit) = commit {
        say_error(format_args!("{kind} {name}, commit {commit}"));
    }
}

/// Warns that the files are from the cache, because the hub could not be reached.
fn warn_of_outage(id: &RepoId, commit: &str, outage: Option<&str>) {
    if let Some(outage) = outage {
        warn(format_args!("{outage}; the copy of {id} in the cache is used, commit {commit}"));
    }
}

/// Refuses a local folder without the `needed` file if it hides a hub id of the same name.
fn check_hidden(location: &Location, needed: &Path) -> Result<()> {
    if let Some(id) = location.hidden_id()
        && !needed.exists()
    {
        bail!(
            "there is no {}; where the hub's `{id}` is meant, rename or remove the local folder, which comes before a \
             repository of the hub with the same name",
            needed.display()
        );
    }
    Ok(())
}
