//! Reading `config.json` and other JSON files of a checkpoint.

use std::path::Path;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use torch_files::LFS_POINTER;
use train_ops::Activation;

use crate::{Error, Result};

/// The contents of a JSON file.
///
/// # Errors
/// If the file cannot be read, is a Git LFS pointer, or is not JSON of this form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if text.as_bytes().starts_with(LFS_POINTER) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Checks that `heads`, the value of the option `field` in the file at `path`, divides the width of its layers.
///
/// # Errors
/// [`Error::Unsupported`] if it does not.
pub fn check_heads(path: &Path, field: &'static str, heads: usize, width: usize) -> Result<()> {
    if heads > 0 && width.is_multiple_of(heads) {
        return Ok(());
    }
    let supported = format!("a divisor of hidden_size, {width},");
    Err(Error::Unsupported { path: path.to_owned(), field, got: heads.to_string(), supported })
}

/// Reads an activation by its name; for serde's `deserialize_with`.
///
/// # Errors
/// If the activation is not implemented.
pub fn activation<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Activation, D::Error> {
    let name = String::deserialize(deserializer)?;
    Activation::from_name(&name).ok_or_else(|| {
        D::Error::custom(format!(
            "activation {name:?}; supported are \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\", \"quick_gelu\" and \"silu\""
        ))
    })
}

/// Reads `eos_token_id`: accepts `102`, `[102, 103]` and `null`; for serde's `deserialize_with`.
///
/// # Errors
/// If the value is something else.
pub fn token_ids<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "eos_token_id must be a token id, a list of them, or null")]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    })
}
