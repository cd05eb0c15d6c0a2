//! Detects folders that are given for the wrong purpose, and suggests the right one.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use caption_data::ImageProcessor;
use serde_json::Value;

use crate::files::LFS_POINTER;
use crate::save::COMPANIONS;

/// The file that identifies an adapter's folder.
const ADAPTER: &str = "adapter_config.json";
/// The file that identifies a checkpoint's folder.
const CHECKPOINT: &str = "config.json";

/// Fails if the folder of `--model` is not a checkpoint, or lacks files that a checkpoint needs beside its
/// weights.
///
/// # Errors
/// The message suggests a folder, or lists the missing files and where to get them.
pub fn check_checkpoint(dir: &Path) -> Result<()> {
    check_is_checkpoint(dir, "--adapter")?;
    if !dir.join(CHECKPOINT).is_file() {
        return Ok(());
    }
    for path in COMPANIONS.map(|name| dir.join(name)) {
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

/// Fails if the folder of `--model` has no `config.json` and another folder is meant. An adapter is suggested
/// for the flag `adapter_flag` of the program.
///
/// # Errors
/// The message suggests a folder.
pub fn check_is_checkpoint(dir: &Path, adapter_flag: &str) -> Result<()> {
    check_is_folder(dir, "--model")?;
    if dir.join(CHECKPOINT).is_file() {
        return Ok(());
    }
    let base =
        |adapter: &Path| base_of(adapter).unwrap_or_else(|| "the model that it was trained on".to_owned());
    if dir.join(ADAPTER).is_file() {
        let base = base(dir);
        bail!("{} is an adapter and no checkpoint: give --model {base} {adapter_flag} {0}", dir.display());
    }
    if let Some(meant) = below(dir, CHECKPOINT) {
        bail!("{} has no {CHECKPOINT}; the checkpoint is {}", dir.display(), listed(&meant));
    }
    if let Some(meant) = below(dir, ADAPTER) {
        let (base, meant) = (base(&meant[0]), listed(&meant));
        bail!(
            "{} has no {CHECKPOINT}, but an adapter: give --model {base} {adapter_flag} {meant}",
            dir.display()
        );
    }
    // Other problems are reported when the folder is opened.
    Ok(())
}

/// Fails if the folder given by `flag` is not an adapter.
///
/// # Errors
/// The message suggests a folder.
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

/// The folders directly below `dir` with a file of this name, or else those one level further down, if there
/// are any. The folders of a run itself come before those of its checkpoints, and the newest checkpoint comes
/// first.
fn below(dir: &Path, name: &str) -> Option<Vec<PathBuf>> {
    let children = subfolders(dir);
    let has = |path: &PathBuf| path.join(name).is_file();
    let mut found: Vec<PathBuf> = children.iter().filter(|path| has(path)).cloned().collect();
    if found.is_empty() {
        found = children.iter().flat_map(|child| subfolders(child)).filter(has).collect();
    }
    found.sort_by_cached_key(|path| {
        let step = step(path);
        (step.is_some(), Reverse(step), path.clone())
    });
    (!found.is_empty()).then_some(found)
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The step of the checkpoint in a path: 40 for `runs/x/checkpoint-40/adapter`.
fn step(path: &Path) -> Option<u64> {
    path.iter().rev().take(2).find_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok())
}

/// The first of some folders, and the number of the others.
fn listed(folders: &[PathBuf]) -> String {
    match folders {
        [one] => one.display().to_string(),
        [first, rest @ ..] => format!("{} (or one of {} others)", first.display(), rest.len()),
        [] => String::new(),
    }
}

/// The configuration of the adapter in a folder.
pub(crate) fn adapter_config(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(dir.join(ADAPTER)).ok()?).ok()
}

/// The base model that an adapter's configuration names.
pub(crate) fn base_of(adapter: &Path) -> Option<String> {
    adapter_config(adapter)?["base_model_name_or_path"].as_str().map(str::to_owned)
}
