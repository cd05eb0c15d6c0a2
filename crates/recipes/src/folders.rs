//! Folders that are not what they are given as: what they are, and which folder was meant.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use caption_data::ImageProcessor;
use serde_json::Value;

use crate::save::COMPANIONS;

/// What an adapter's folder has.
const ADAPTER: &str = "adapter_config.json";
/// What a checkpoint's folder has.
const CHECKPOINT: &str = "config.json";
/// What a Git LFS pointer begins with: the text that stands for a file that was not downloaded.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Fails where the folder of `--model` is none of a checkpoint, or lacks what a checkpoint needs beside its weights.
///
/// # Errors
/// Says which folder was meant, or which files are missing and where they come from.
pub fn check_checkpoint(dir: &Path) -> Result<()> {
    check_is_folder(dir, "--model")?;
    if !dir.join(CHECKPOINT).is_file() {
        if dir.join(ADAPTER).is_file() {
            let base = base_of(dir).unwrap_or_else(|| "the model that it was trained on".to_owned());
            bail!("{} is an adapter and no checkpoint: give --model {base} --adapter {0}", dir.display());
        }
        if let Some(meant) = below(dir, CHECKPOINT) {
            bail!("{} has no {CHECKPOINT}; the checkpoint is {}", dir.display(), listed(&meant));
        }
        if let Some(meant) = below(dir, ADAPTER) {
            let base = base_of(&meant[0]).unwrap_or_else(|| "the model that it was trained on".to_owned());
            bail!(
                "{} has no {CHECKPOINT}, but an adapter: give --model {base} --adapter {}",
                dir.display(),
                listed(&meant)
            );
        }
        // Whatever else it is, whoever opens it says what is missing.
        return Ok(());
    }
    for name in COMPANIONS {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(LFS_POINTER)) {
            bail!(
                "{} is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder",
                path.display()
            );
        }
    }
    let mut missing = Vec::new();
    if !["tokenizer.json", "vocab.txt"].iter().any(|name| dir.join(name).is_file()) {
        missing.push("a tokenizer (tokenizer.json or vocab.txt)");
    }
    if !ImageProcessor::file(dir).is_file() {
        missing.push("an image processor (preprocessor_config.json or processor_config.json)");
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "{} lacks {}: a Trainer without processing_class saves the model alone; copy these files from the model that was \
         fine-tuned, or write them with processor.save_pretrained(\"{0}\")",
        dir.display(),
        missing.join(" and ")
    )
}

/// Fails where the folder that `flag` gives is none of an adapter.
///
/// # Errors
/// Says which folder was meant.
pub fn check_adapter(dir: &Path, flag: &str) -> Result<()> {
    check_is_folder(dir, flag)?;
    if dir.join(ADAPTER).is_file() {
        return Ok(());
    }
    if let Some(meant) = below(dir, ADAPTER) {
        bail!(
            "{} has no {ADAPTER}; the adapter is {}: give {flag} {}",
            dir.display(),
            listed(&meant),
            meant[0].display()
        );
    }
    if dir.join(CHECKPOINT).is_file() || below(dir, CHECKPOINT).is_some() {
        bail!(
            "{} has no {ADAPTER}: it holds a whole checkpoint and no adapter, which is given as --model",
            dir.display()
        );
    }
    Ok(())
}

fn check_is_folder(path: &Path, flag: &str) -> Result<()> {
    match path.parent().filter(|_| path.is_file()) {
        Some(folder) => {
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            bail!("{} is a file: give {flag} the folder that it is in, {}", path.display(), folder.display())
        }
        None => Ok(()),
    }
}

/// The folders one or two below `dir` that have a file of this name, if there are any: those of the run itself before those of its
/// checkpoints, and of these the newest first.
fn below(dir: &Path, name: &str) -> Option<Vec<PathBuf>> {
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let has = |path: &PathBuf| path.join(name).is_file();
    let by_step = |path: &PathBuf| {
        let text = path.to_string_lossy();
        let step =
            text.rsplit_once("checkpoint-").and_then(|(_, step)| step.split('/').next()?.parse::<u64>().ok());
        std::cmp::Reverse(step)
    };
    let first = folders(dir);
    let second: Vec<PathBuf> = first.iter().flat_map(|folder| folders(folder)).filter(has).collect();
    let mut first: Vec<PathBuf> = first.into_iter().filter(has).collect();
    if first.is_empty() {
        first = second;
    }
    first.sort_by_key(|path| (by_step(path).0.is_some(), by_step(path), path.clone()));
    (!first.is_empty()).then_some(first)
}

/// The first of some folders, and how many more there are.
fn listed(folders: &[PathBuf]) -> String {
    match folders {
        [one] => one.display().to_string(),
        [first, rest @ ..] => format!("{} (or one of {} others)", first.display(), rest.len()),
        [] => String::new(),
    }
}

/// The model that an adapter says it was trained on.
fn base_of(adapter: &Path) -> Option<String> {
    let config: Value = serde_json::from_slice(&fs::read(adapter.join(ADAPTER)).ok()?).ok()?;
    config["base_model_name_or_path"].as_str().map(str::to_owned)
}
