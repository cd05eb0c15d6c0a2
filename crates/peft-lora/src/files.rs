//! The two files of an adapter, as PEFT writes and reads them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use tempfile::NamedTempFile;
use torch_files::{LFS_POINTER, TorchFile};
use train_ops::Renaming;

use crate::error::Misshapen;
use crate::finite::is_finite;
use crate::{Error, InitLoraWeights, LoraConfig, Result};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PICKLE_FILE: &str = "adapter_model.bin";

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
        let config: LoraConfig = serde_json::from_slice(&json)
            .map_err(|source| Error::Config { path: config_path.clone(), source })?;
        if let InitLoraWeights::PissaNiter(iterations) = config.init_lora_weights {
            let init = format!("pissa_niter_{iterations}");
            return Err(Error::RandomInitialisation { path: config_path, init });
        }

        let (weights_path, tensors) = read_tensors(dir)?;
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let tensor = to_f32(&weights_path, &name, &tensor)?;
                Ok((name, tensor))
            })
            .collect::<Result<_>>()?;
        let tensors = without_adapter_name(tensors, &weights_path)?;
        Ok(Self { config, config_path, weights_path, tensors })
    }

    /// The tensors of these names and shapes; an error unless the file has exactly them.
    pub(crate) fn tensors_of(
        &self,
        shapes: &BTreeMap<String, Vec<usize>>,
    ) -> Result<&BTreeMap<String, Tensor>> {
        let found: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        let expected: Vec<&str> = shapes.keys().map(String::as_str).collect();
        let renaming = Renaming::find(&found, &expected, |name| shapes.contains_key(name));
        if let Some(renaming) = renaming {
            return Err(Error::Renamed { path: self.weights_path.clone(), renaming });
        }
        let missing: Vec<String> =
            shapes.keys().filter(|name| !self.tensors.contains_key(*name)).cloned().collect();
        let unexpected: Vec<String> =
            self.tensors.keys().filter(|name| !shapes.contains_key(*name)).cloned().collect();
        let misshapen = shapes.iter().filter_map(|(name, expected)| {
            let got = self.tensors.get(name)?.dims();
            let is_other = got != expected;
            is_other.then(|| Misshapen { name: name.clone(), expected: expected.clone(), got: got.to_vec() })
        });
        let misshapen: Vec<Misshapen> = misshapen.collect();
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            return Ok(&self.tensors);
        }
        Err(Error::Tensors { path: self.weights_path.clone(), missing, unexpected, misshapen })
    }

    /// Whether the weight file has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks that the tensor `name` is `weight`, up to rounding to 16 bits.
    ///
    /// # Errors
    /// [`Error::OtherBase`].
    pub(crate) fn check_same(&self, name: &str, weight: &Tensor) -> Result<()> {
        let Some(stored) = self.tensors.get(name) else { return Ok(()) };
        let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let largest = |tensor: &Tensor| tensor.abs()?.max_all()?.to_scalar::<f32>();
        if largest(&(stored - &weight)?)? > largest(&weight)? / 256.0 {
            return Err(Error::OtherBase { path: self.weights_path.clone(), name: name.to_owned() });
        }
        Ok(())
    }

    /// The error that the file lacks a tensor.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let (missing, path) = (vec![name.to_owned()], self.weights_path.clone());
        Error::Tensors { path, missing, unexpected: Vec::new(), misshapen: Vec::new() }
    }
}

/// Writes both files. Each is either complete or absent. At no time does the folder have a configuration and
/// the weights of another adapter: such a pair could be opened, and with another scale would give wrong
/// results.
pub(crate) fn write(dir: &Path, config: &LoraConfig, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        if !is_finite(tensor)? {
            return Err(Error::NotFinite { action: "save", tensor: name.clone() });
        }
    }
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;

    let (weights_path, config_path) = (dir.join(WEIGHTS_FILE), dir.join(CONFIG_FILE));
    // Python's readers refuse files whose metadata does not name the framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(candle_core::Error::from)?;
    let json = serde_json::to_vec_pretty(config)
        .map_err(|source| Error::Config { path: config_path.clone(), source })?;
    // Both new files are on disk before an old one is removed.
    let weights = stage(&weights_path, &bytes)?;
    let config = stage(&config_path, &json)?;
    remove(&config_path)?;
    put(weights, &weights_path)?;
    put(config, &config_path)
}

/// The tensors in an adapter's folder, and the file that they were read from.
fn read_tensors(dir: &Path) -> Result<(PathBuf, BTreeMap<String, Tensor>)> {
    let (path, pickle) = (dir.join(WEIGHTS_FILE), dir.join(PICKLE_FILE));
    if pickle.exists() && !path.exists() {
        let file = TorchFile::open(&pickle)?;
        let names = file.shapes().map(|(name, _)| name);
        let tensors = names.map(|name| Ok(file.tensor(name)?.map(|tensor| (name.to_owned(), tensor))));
        let tensors = tensors.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        return Ok((pickle, tensors));
    }
    let bytes = read(&path)?;
    if bytes.starts_with(LFS_POINTER) {
        return Err(Error::LfsPointer { path });
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|source| Error::Safetensors { path: path.clone(), source })?;
    Ok((path, tensors.into_iter().collect()))
}

/// The tensors under the names that PEFT saves. Inside a model, names contain the adapter's name too, as in
/// `….lora_A.default.weight`; it is removed if all of them have it.
fn without_adapter_name(tensors: BTreeMap<String, Tensor>, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    // The name of the adapter, if the name of the tensor has it, and the name without it.
    let split = |name: &str| -> Option<(String, String)> {
        let (layer, rest) = name.rsplit_once(".lora_")?;
        let (kind, rest) = rest.split_once('.')?;
        let (adapter, end) = match rest.rsplit_once('.') {
            Some((adapter, _)) if kind == "magnitude_vector" => (adapter, String::new()),
            Some((adapter, end)) => (adapter, format!(".{end}")),
            None if kind.starts_with("embedding_") || kind == "magnitude_vector" => (rest, String::new()),
            None => return None,
        };
        Some((adapter.to_owned(), format!("{layer}.lora_{kind}{end}")))
    };
    let Some(names) = tensors.keys().map(|name| split(name)).collect::<Option<Vec<_>>>() else {
        return Ok(tensors);
    };
    let adapters: BTreeSet<&String> = names.iter().map(|(adapter, _)| adapter).collect();
    if adapters.len() > 1 {
        let names = adapters.into_iter().cloned().collect();
        return Err(Error::SeveralAdapters { path: path.to_owned(), names });
    }
    Ok(names.into_iter().map(|(_, name)| name).zip(tensors.into_values()).collect())
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

/// Writes to a temporary file beside `path`, and flushes it to disk.
fn stage(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let write = || -> io::Result<NamedTempFile> {
        let mut options = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // Gives the file the permissions of any new file; by default only the owner can read a temporary
            // file.
            use std::os::unix::fs::PermissionsExt;
            options.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = options.tempfile_in(folder(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Renames a temporary file to `path`, so that readers of `path` find either the old contents or the new
/// ones.
fn put(file: NamedTempFile, path: &Path) -> Result<()> {
    let put = || -> io::Result<()> {
        file.persist(path)?;
        sync_folder(path)
    };
    put().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Removes the file at `path`, if there is one.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Flushes a folder, which makes a renaming or a removal in it permanent.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::File::open(folder(path))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}
