//! Writes whole checkpoints in the Hugging Face layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor, Var};
use serde_json::Value;

use crate::files;

/// Files that accompany the weights: those of the configuration, the tokenizer and the processor, in the
/// layouts of transformers 4 and 5. A checkpoint may lack some.
pub const COMPANIONS: [&str; 15] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// The file of the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// Writes `parameters` as a checkpoint to the folder `dir`, modelled on the checkpoint in the folder `like`:
/// each tensor gets its type there, and the companion files are copied. If `like` has no weights, the
/// parameters keep their own types.
///
/// # Errors
/// If a file cannot be read or written, or a number does not fit the type.
pub fn checkpoint(parameters: &BTreeMap<String, Var>, like: &Path, dir: &Path) -> Result<()> {
    let dtypes = match captioner::open_checkpoint(like) {
        Ok(checkpoint) => checkpoint.dtypes()?,
        Err(caption_model::Error::Missing { .. }) => BTreeMap::new(),
        Err(error) => return Err(error.into()),
    };
    let stored = parameters.iter().map(|(name, variable)| {
        let tensor = variable.as_detached_tensor();
        let dtype = dtypes.get(name).copied().unwrap_or(tensor.dtype());
        Ok((name.clone(), fitted(name, &tensor, dtype)?))
    });
    tensors(&stored.collect::<Result<_>>()?, like, dir)
}

/// Writes `tensors` as [`WEIGHTS`] to the folder `dir`, with the companion files of the checkpoint in
/// `like`. The type in `config.json` is set to that of the tensors.
///
/// # Errors
/// If a file cannot be read or written.
pub fn tensors(tensors: &BTreeMap<String, Tensor>, like: &Path, dir: &Path) -> Result<()> {
    let dtype = common_type(tensors);
    for name in COMPANIONS {
        let from = like.join(name);
        if from.is_file() {
            let mut bytes =
                std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            if name == "config.json" {
                bytes = with_type(bytes, dtype)
                    .with_context(|| format!("cannot understand {}", from.display()))?;
            }
            files::replace(&dir.join(name), &bytes)?;
        }
    }
    // transformers refuses files whose metadata does not name the format.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    files::replace(&dir.join(WEIGHTS), &bytes)
}

/// Converts a tensor to another type.
///
/// # Errors
/// If a number is out of range, such as one above 65,504 in f16.
pub fn fitted(name: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    let converted = tensor.to_dtype(dtype)?;
    // 0 x infinity and 0 x NaN are NaN, and so is any sum that includes them.
    let is_finite = |tensor: &Tensor| -> Result<bool> {
        Ok((tensor.to_dtype(DType::F32)? * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
    };
    if !is_finite(&converted)? && is_finite(tensor)? {
        bail!("{name} holds numbers that {dtype:?} has no place for: store it in f32 or bf16");
    }
    Ok(converted)
}

/// The common type of all tensors, or else a type that can represent all of their numbers.
fn common_type(tensors: &BTreeMap<String, Tensor>) -> DType {
    let dtypes: BTreeSet<&str> = tensors.values().map(|tensor| tensor.dtype().as_str()).collect();
    match tensors.values().next().map(Tensor::dtype) {
        Some(dtype) if dtypes.len() == 1 => dtype,
        _ if dtypes.contains(DType::F64.as_str()) => DType::F64,
        _ => DType::F32,
    }
}

/// A `config.json` whose type is `dtype`, under the keys of transformers 4 and 5. It is left unchanged if it
/// has that type already, or if it has none and `dtype` is f32, the type of a checkpoint that names none.
fn with_type(json: Vec<u8>, dtype: DType) -> Result<Vec<u8>> {
    let name = match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let mut config: Value = serde_json::from_slice(&json)?;
    let before = config.clone();
    let is_marked = ["dtype", "torch_dtype"].iter().any(|key| config.get(key).is_some());
    if !is_marked && dtype != DType::F32 {
        config["dtype"] = name.into();
    }
    let set = |config: &mut Value| {
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = config.get_mut(key) {
                *value = name.into();
            }
        }
    };
    set(&mut config);
    for part in ["vision_config", "text_config"] {
        if let Some(part) = config.get_mut(part) {
            set(part);
        }
    }
    if config == before { Ok(json) } else { Ok(serde_json::to_vec_pretty(&config)?) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_types_in_a_configuration_are_made_those_of_the_file_and_all_else_stays() {
        let with = |json: &str, dtype| String::from_utf8(with_type(json.into(), dtype).unwrap()).unwrap();
        let value = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        for same in [r#"{"b": 1,   "a": 2}"#, r#"{"dtype": "float32"}"#] {
            assert_eq!(with(same, DType::F32), same);
        }
        let old = r#"{"torch_dtype": "float32", "vision_config": {"torch_dtype": "float32", "dtype": null}}"#;
        let new =
            r#"{"torch_dtype": "float16", "vision_config": {"torch_dtype": "float16", "dtype": "float16"}}"#;
        assert_eq!(value(&with(old, DType::F16)), value(new));
        assert_eq!(value(&with("{}", DType::BF16)), value(r#"{"dtype": "bfloat16"}"#));
    }

    #[test]
    fn a_number_that_does_not_fit_is_an_error_that_names_its_tensor() {
        let large = Tensor::new(&[1f32, 70_000.0], &Device::Cpu).unwrap();
        let error = fitted("output.bias", &large, DType::F16).unwrap_err().to_string();
        assert!(error.contains("output.bias") && error.contains("F16"), "{error}");
        assert_eq!(fitted("output.bias", &large, DType::BF16).unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn files_of_several_types_are_named_by_one_that_holds_all() {
        let tensor = |dtype| Tensor::zeros(1, dtype, &Device::Cpu).unwrap();
        let common = |dtypes: &[DType]| {
            let tensors = dtypes.iter().enumerate().map(|(index, dtype)| (index.to_string(), tensor(*dtype)));
            common_type(&tensors.collect())
        };
        assert_eq!(common(&[DType::BF16, DType::BF16]), DType::BF16);
        assert_eq!(common(&[DType::BF16, DType::F16]), DType::F32);
        assert_eq!(common(&[DType::F16, DType::F64]), DType::F64);
    }
}
