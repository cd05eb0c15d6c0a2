//! Whole checkpoints in the Hugging Face layout.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use candle_core::{Tensor, Var};

use crate::files;

/// Files beside the weights that make a checkpoint usable.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

/// Writes `parameters` as `model.safetensors` to the folder `dir`, with the companions of the checkpoint in `like`.
///
/// # Errors
/// If a file cannot be read or written.
pub fn checkpoint(parameters: &BTreeMap<String, Var>, like: &Path, dir: &Path) -> Result<()> {
    for name in COMPANIONS {
        let from = like.join(name);
        if from.is_file() {
            let bytes = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            files::replace(&dir.join(name), &bytes)?;
        }
    }
    let tensors: BTreeMap<&str, Tensor> =
        parameters.iter().map(|(name, variable)| (name.as_str(), variable.as_detached_tensor())).collect();
    // transformers refuses files that do not name their format.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    files::replace(&dir.join("model.safetensors"), &bytes)
}
