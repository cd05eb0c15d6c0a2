//! The two files of an adapter, as PEFT writes and reads them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};

use crate::error::Misshapen;
use crate::layer::is_finite;
use crate::{Error, LoraConfig, Result};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PICKLE_FILE: &str = "adapter_model.bin";

/// The name of a tensor in the weight file. PEFT wraps the model twice, and each wrapper adds a part to the path.
pub(crate) fn tensor_name(path: &str, matrix: char) -> String {
    format!("base_model.model.{path}.lora_{matrix}.weight")
}

/// The contents of an adapter's folder.
#[derive(Clone, Debug)]
pub(crate) struct AdapterFiles {
    pub(crate) config: LoraConfig,
    pub(crate) config_path: PathBuf,
    weights_path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl AdapterFiles {
    /// Reads both files, and checks that all tensors are finite.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let config_path = dir.join(CONFIG_FILE);
        let json = read(&config_path)?;
        let config = serde_json::from_slice(&json)
            .map_err(|source| Error::Config { path: config_path.clone(), source })?;

        let weights_path = dir.join(WEIGHTS_FILE);
        let pickle = dir.join(PICKLE_FILE);
        if pickle.exists() && !weights_path.exists() {
            return Err(Error::Pickle { path: pickle });
        }
        let bytes = read(&weights_path)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|source| Error::Safetensors { path: weights_path.clone(), source })?
            .into_iter()
            .map(|(name, tensor)| {
                let tensor = to_f32(&weights_path, &name, &tensor)?;
                Ok((name, tensor))
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, config_path, weights_path, tensors })
    }

    /// The tensors, if they are just those that `parameters` name, in the same shapes.
    pub(crate) fn tensors_for(&self, parameters: &BTreeMap<String, Var>) -> Result<Vec<(Var, Tensor)>> {
        let missing: Vec<String> =
            parameters.keys().filter(|name| !self.tensors.contains_key(*name)).cloned().collect();
        let unexpected: Vec<String> =
            self.tensors.keys().filter(|name| !parameters.contains_key(*name)).cloned().collect();
        let mut misshapen = Vec::new();
        let mut pairs = Vec::new();
        for (name, parameter) in parameters {
            let Some(tensor) = self.tensors.get(name) else { continue };
            if tensor.dims() != parameter.dims() {
                misshapen.push(Misshapen {
                    name: name.clone(),
                    expected: parameter.dims().to_vec(),
                    got: tensor.dims().to_vec(),
                });
            }
            pairs.push((parameter.clone(), tensor.clone()));
        }
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            return Ok(pairs);
        }
        Err(Error::Tensors { path: self.weights_path.clone(), missing, unexpected, misshapen })
    }
}

/// Writes both files, the configuration last. Each is complete or not there.
pub(crate) fn write(dir: &Path, config: &LoraConfig, parameters: &BTreeMap<String, Var>) -> Result<()> {
    for (name, parameter) in parameters {
        if !is_finite(parameter.as_tensor())? {
            return Err(Error::NotFinite { action: "save", tensor: name.clone() });
        }
    }
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;

    let weights_path = dir.join(WEIGHTS_FILE);
    // Readers in Python refuse files that do not name the framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = parameters.iter().map(|(name, parameter)| (name, parameter.as_tensor()));
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(candle_core::Error::from)?;
    write_atomically(&weights_path, &bytes)?;

    let config_path = dir.join(CONFIG_FILE);
    let json = serde_json::to_vec_pretty(config)
        .map_err(|source| Error::Config { path: config_path.clone(), source })?;
    write_atomically(&config_path, &json)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn to_f32(path: &Path, name: &str, tensor: &Tensor) -> Result<Tensor> {
    let dtype = tensor.dtype();
    if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16 | DType::F64) {
        return Err(Error::DType { path: path.to_owned(), name: name.to_owned(), got: dtype });
    }
    let tensor = tensor.to_dtype(DType::F32)?;
    if !is_finite(&tensor)? {
        return Err(Error::NotFinite { action: "load", tensor: name.to_owned() });
    }
    Ok(tensor)
}

/// Writes to a temporary file beside `path`, waits until it is on disk, and renames it: whoever reads `path` finds the
/// old contents or the new ones.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut options = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // As any new file; the default is for the owner alone.
            use std::os::unix::fs::PermissionsExt;
            options.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = options.tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The rename itself is on disk once the folder is.
        #[cfg(unix)]
        fs::File::open(dir)?.sync_all()?;
        Ok(())
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}
