//! Finds weights that are NaN or infinite.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::Device;
use caption_model::CaptionCheckpoint;
use serde_json::Value;
use train_ops::is_finite;

/// Fails if a weight of the checkpoint is NaN or infinite: no loss and no caption would be a number.
///
/// # Errors
/// The message names the first such tensor and its file.
pub(super) fn check(checkpoint: &dyn CaptionCheckpoint) -> Result<()> {
    for (name, dtype) in checkpoint.dtypes()? {
        if !is_finite(&checkpoint.tensors().tensor(&name, dtype, &Device::Cpu)?) {
            bail!(
                "the weight {name} in {} has values that are NaN or infinite, with which no loss and no caption can be \
                 computed: its training may have diverged, so take an earlier checkpoint, or copy or download the file \
                 again if it may be damaged",
                file_of(checkpoint.dir(), &name).display()
            );
        }
    }
    Ok(())
}

/// The file of a tensor: the first format that is there, and its shard by the index.
fn file_of(dir: &Path, tensor: &str) -> PathBuf {
    for weights in ["model.safetensors", "pytorch_model.bin"] {
        let (whole, index) = (dir.join(weights), dir.join(format!("{weights}.index.json")));
        if whole.is_file() {
            return whole;
        }
        if let Ok(text) = std::fs::read(&index) {
            let json: Value = serde_json::from_slice(&text).unwrap_or_default();
            return json["weight_map"][tensor].as_str().map_or(index, |shard| dir.join(shard));
        }
    }
    dir.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_tensor_is_its_shard() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        assert_eq!(file_of(folder.path(), "a"), folder.path());
        let index = r#"{"weight_map": {"a": "model-00002-of-00002.safetensors"}}"#;
        std::fs::write(file("model.safetensors.index.json"), index).unwrap();
        assert_eq!(file_of(folder.path(), "a"), file("model-00002-of-00002.safetensors"));
        assert_eq!(file_of(folder.path(), "b"), file("model.safetensors.index.json"));
        std::fs::write(file("model.safetensors"), "").unwrap();
        assert_eq!(file_of(folder.path(), "a"), file("model.safetensors"));
    }
}
