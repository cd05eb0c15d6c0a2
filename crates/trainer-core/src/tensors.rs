//! Safetensors files. Reading one returns exactly the expected tensors, or an error that lists all differences.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::files::replace;
use crate::{Error, Result};

/// Replaces the file at `path`. Does not sync.
pub(crate) fn save(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    replace(path, |partial| {
        // safetensors writes through a temporary file that only its owner can read: restore the usual permissions.
        let permissions = File::create(partial)?.metadata()?.permissions();
        safetensors::serialize_to_file(tensors, Some(metadata), partial).map_err(io::Error::other)?;
        fs::set_permissions(partial, permissions)
    })
}

/// Reads exactly the tensors of `expected`, with their shapes, types and devices.
pub(crate) fn load_like(
    path: &Path,
    expected: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let refuse = |problems| Error::Tensors { path: path.to_owned(), problems };
    let found = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|error| refuse(vec![error.to_string()]))?;
    let problems = differences(&found, expected);
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    let on_device = |(name, tensor): (String, Tensor)| {
        let tensor = tensor.to_device(expected[&name].device())?;
        Ok((name, tensor))
    };
    found.into_iter().map(on_device).collect()
}

/// Describes every missing, misshapen and unexpected tensor, in the order of their names.
pub(crate) fn differences<'a>(
    found: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
    expected: &BTreeMap<String, Tensor>,
) -> Vec<String> {
    let mut found: BTreeMap<&String, &Tensor> = found.into_iter().collect();
    let mut problems = Vec::new();
    for (name, like) in expected {
        match found.remove(name) {
            None => problems.push(format!("{name} is missing")),
            Some(tensor) if tensor.shape() != like.shape() || tensor.dtype() != like.dtype() => problems
                .push(format!(
                    "{name} is {:?} {:?}, expected {:?} {:?}",
                    tensor.dtype(),
                    tensor.dims(),
                    like.dtype(),
                    like.dims()
                )),
            Some(_) => {}
        }
    }
    problems.extend(found.keys().map(|name| format!("{name} is unexpected")));
    problems
}
