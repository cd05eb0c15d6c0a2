//! Finds weights that are NaN or infinite.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use caption_model::CaptionCheckpoint;
use serde_json::Value;

/// Values that are checked at a time.
const CHUNK: usize = 1 << 12;

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

fn is_finite(tensor: &Tensor) -> bool {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::F64(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::F16(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::BF16(values)) => all(values, |value| value.is_finite()),
        _ => true,
    }
}

/// Whether all values pass, without a branch for each of them.
fn all<T>(values: &[T], passes: impl Fn(&T) -> bool) -> bool {
    values.chunks(CHUNK).all(|chunk| chunk.iter().fold(true, |all, value| all & passes(value)))
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
    use candle_core::DType;

    use super::*;

    #[test]
    fn one_value_that_is_not_finite_is_found_in_every_type() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for (value, finite) in [(1.0, true), (f32::NAN, false), (f32::INFINITY, false)] {
                let mut values = vec![0f32; 2 * CHUNK + 1];
                values[2 * CHUNK] = value;
                let tensor = Tensor::from_vec(values, 2 * CHUNK + 1, &Device::Cpu).unwrap();
                let tensor = tensor.to_dtype(dtype).unwrap();
                assert_eq!(is_finite(&tensor), finite, "{value} in {dtype:?}");
            }
        }
        assert!(is_finite(&Tensor::new(&[3i64], &Device::Cpu).unwrap()));
    }

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
