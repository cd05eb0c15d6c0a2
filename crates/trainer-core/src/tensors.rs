//! Files of named tensors, read strictly.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use candle_core::Tensor;

use crate::files::io_error;
use crate::{Error, Result};

/// Replaces the file at `path` by the tensors: under another name first, then renamed. Nothing waits for the disk.
pub(crate) fn save(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
    let partial = path.with_extension("safetensors.partial");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let write = || -> io::Result<()> {
        // What safetensors writes tensor by tensor is a temporary file, which nobody but its owner can read.
        let permissions = File::create(&partial)?.metadata()?.permissions();
        safetensors::serialize_to_file(tensors, Some(metadata), &partial).map_err(io::Error::other)?;
        fs::set_permissions(&partial, permissions)?;
        fs::rename(&partial, path)
    };
    write().map_err(io_error("write", path)).inspect_err(|_| {
        // The error of writing is the one to report.
        fs::remove_file(&partial).ok();
    })
}

/// Reads exactly the tensors of `wanted`, with their shapes, types and devices.
pub(crate) fn load_like(path: &Path, wanted: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let refuse = |problems| Error::Tensors { path: path.to_owned(), problems };
    let mut found = candle_core::safetensors::load(path, &candle_core::Device::Cpu)
        .map_err(|error| refuse(vec![error.to_string()]))?;

    let mut problems = Vec::new();
    let mut loaded = BTreeMap::new();
    for (name, like) in wanted {
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
            Some(tensor) => {
                loaded.insert(name.clone(), tensor.to_device(like.device())?);
            }
        }
    }
    let unexpected: BTreeMap<_, _> = found.into_iter().collect();
    problems.extend(unexpected.keys().map(|name| format!("{name} is unexpected")));
    if problems.is_empty() { Ok(loaded) } else { Err(refuse(problems)) }
}
