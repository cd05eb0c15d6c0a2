//! Merges an adapter into the weights of its model.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use caption_model::{CaptionCheckpoint, LoadOptions};
use peft_lora::LoraBuilder;

use crate::open;
use crate::options::Merge;
use crate::run_folder::RECORD;
use crate::save;
use crate::terminal::say;

/// Files that identify the folder of an adapter, of a run's checkpoint or of a run. A merged checkpoint must
/// not be written to such a folder.
const OF_OTHERS: [&str; 3] = ["adapter_config.json", "complete.json", RECORD];

/// A model with its adapter merged in.
pub struct Merged {
    /// All weights by their names in a checkpoint.
    pub tensors: BTreeMap<String, Tensor>,
    /// How many layers the adapter changed.
    pub layers: usize,
}

/// Merges the adapter into the model that the options name, and writes the merged checkpoint.
///
/// # Errors
/// If an input cannot be read, they do not fit each other, or the output folder is not new or empty.
pub fn run(options: &Merge) -> Result<()> {
    let pretrained = open::pretrained(&options.model)?;
    pretrained.say_commit();
    check_output(&options.output_dir, &pretrained.dir)?;
    let dtype = options.dtype.map(Into::into);
    let adapter = open::adapter_for(&pretrained, &options.adapter)?;
    let merged = merge(pretrained.checkpoint.as_ref(), &adapter, dtype)?;
    save::tensors(&merged.tensors, &pretrained.dir, &options.output_dir)?;
    say(format_args!("merged {} layers; written to {}", merged.layers, options.output_dir.display()));
    Ok(())
}

/// Checks that a merged checkpoint in the folder `output` replaces nothing and is not mixed with another one.
/// `base` is the folder of the model.
///
/// # Errors
/// If the folder has a file with the name of one of a checkpoint, or belongs to an adapter or a run. The
/// message names the file.
pub fn check_output(output: &Path, base: &Path) -> Result<()> {
    if let (Ok(output), Ok(base)) = (output.canonicalize(), base.canonicalize())
        && output == base
    {
        bail!("--output-dir {} is the folder of the model itself: choose another", output.display());
    }
    let mut names = [save::WEIGHTS].into_iter().chain(save::COMPANIONS).chain(OF_OTHERS);
    match names.find(|name| output.join(name).symlink_metadata().is_ok()) {
        Some(name) => bail!(
            "--output-dir {} already has {name}, and a merged checkpoint neither replaces nor joins \
             other files: choose another --output-dir, or remove the folder",
            output.display()
        ),
        None => Ok(()),
    }
}

/// Adds the adapter in the folder `adapter` to the weights of `checkpoint`. Sums are computed in f32; each
/// weight is stored in its type in the checkpoint, or in `dtype`.
///
/// # Errors
/// If the adapter does not fit the model or changes a weight that two layers share, or if a sum does not fit
/// its type.
pub fn merge(checkpoint: &dyn CaptionCheckpoint, adapter: &Path, dtype: Option<DType>) -> Result<Merged> {
    let mut builder = LoraBuilder::from_pretrained(adapter)?;
    checkpoint.load_model(&mut builder, &LoadOptions::default())?;
    let adapter = builder.finish()?;
    let (tensors_of, head) = (checkpoint.tensors(), checkpoint.tensors().schema().head());
    if tensors_of.tied() && adapter.layers().any(|layer| layer.path() == head) {
        bail!(
            "the adapter cannot be merged: it changes the layer `{head}`, whose weight is the word embedding too \
             (tie_word_embeddings), so that the model would also read other words; use it as it is, with caption --adapter"
        );
    }
    let mut merged = adapter.merged_weights().collect::<peft_lora::Result<BTreeMap<_, _>>>()?;
    let layers = adapter.layers().count();
    let mut tensors = BTreeMap::new();
    for (name, stored) in tensors_of.dtypes()? {
        let tensor = match merged.remove(&name) {
            Some(sum) => sum,
            None => tensors_of.tensor(&name, stored, &Device::Cpu)?,
        };
        let tensor = save::fitted(&name, &tensor, dtype.unwrap_or(stored))?;
        tensors.insert(name, tensor);
    }
    match merged.keys().next() {
        None => Ok(Merged { tensors, layers }),
        Some(name) => bail!("the checkpoint has no {name}, which the adapter changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_checkpoint_needs_a_folder_without_the_files_of_a_model_an_adapter_or_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let base = tempfile::tempdir().unwrap();
        let check_output = |output: &Path| check_output(output, base.path());
        check_output(&folder.path().join("new")).unwrap();
        assert!(check_output(base.path()).unwrap_err().to_string().contains("folder of the model itself"));
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        check_output(folder.path()).unwrap();
        for name in ["config.json", "model.safetensors", "adapter_config.json", "complete.json", "run.json"] {
            std::fs::write(folder.path().join(name), "mine").unwrap();
            let message = check_output(folder.path()).unwrap_err().to_string();
            assert!(message.contains(&format!("already has {name}")), "{message}");
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
    }
}
