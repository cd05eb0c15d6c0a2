use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use train_ops::RandomAccessFile;

use crate::words::FileRows;
use crate::{Error, Result};

/// The tensors of a checkpoint by name, read when they are asked for: from `model.safetensors`, from the shards that
/// `model.safetensors.index.json` lists, or from `pytorch_model.bin`.
pub(crate) enum Weights {
    Safetensors(Vec<SafetensorsFile>),
    Pickle { path: PathBuf, tensors: PthTensors },
}

/// One safetensors file, whose tensors are read one at a time.
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    data: Arc<RandomAccessFile>,
    /// Where the tensors' bytes begin.
    start: u64,
    metadata: Metadata,
}

impl Weights {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        let pickle = dir.join("pytorch_model.bin");
        if single.is_file() {
            return Ok(Self::Safetensors(vec![SafetensorsFile::open(single)?]));
        }
        if index.is_file() {
            return Ok(Self::Safetensors(shards(&index)?));
        }
        if pickle.is_file() {
            let tensors = PthTensors::new(&pickle, None)
                .map_err(|error| Error::Damaged { path: pickle.clone(), reason: error.to_string() })?;
            return Ok(Self::Pickle { path: pickle, tensors });
        }
        let wanted = "model.safetensors, model.safetensors.index.json or pytorch_model.bin";
        Err(Error::Missing { dir: dir.to_owned(), wanted })
    }

    /// Name and shape of every tensor.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(files) => files
                .iter()
                .flat_map(|file| file.metadata.tensors())
                .map(|(name, info)| (name, info.shape.clone()))
                .collect(),
            Self::Pickle { tensors, .. } => tensors
                .tensor_infos()
                .iter()
                .map(|(name, info)| (name.clone(), info.layout.dims().to_vec()))
                .collect(),
        }
    }

    /// One tensor, converted to `dtype`; `None` if the file has none of that name.
    pub(crate) fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let tensor = match self {
            Self::Safetensors(files) => match find(files, name) {
                None => None,
                Some((file, info)) => {
                    let stored = DType::try_from(info.dtype)?;
                    let (start, end) = info.data_offsets;
                    let bytes = file.data.read(file.start + start as u64..file.start + end as u64)?;
                    Some(Tensor::from_raw_buffer(&bytes, stored, &info.shape, &Device::Cpu)?)
                }
            },
            Self::Pickle { path, tensors } => tensors
                .get(name)
                .map_err(|error| Error::Damaged { path: path.clone(), reason: format!("{name}: {error}") })?,
        };
        Ok(tensor.map(|tensor| tensor.to_dtype(dtype)?.to_device(device)).transpose()?)
    }

    /// The rows of one matrix, read from its safetensors file when they are needed; `None` without a matrix of that name in such a
    /// file.
    pub(crate) fn rows(&self, name: &str) -> Result<Option<FileRows>> {
        let Self::Safetensors(files) = self else { return Ok(None) };
        let Some((file, info)) = find(files, name) else { return Ok(None) };
        let &[rows, width] = &info.shape[..] else { return Ok(None) };
        let start = file.start + info.data_offsets.0 as u64;
        Ok(Some(FileRows {
            file: Arc::clone(&file.data),
            start,
            rows,
            width,
            dtype: DType::try_from(info.dtype)?,
        }))
    }
}

/// The file that has the tensor called `name`, and what it says of it.
fn find<'a>(files: &'a [SafetensorsFile], name: &str) -> Option<(&'a SafetensorsFile, &'a TensorInfo)> {
    files.iter().find_map(|file| Some((file, file.metadata.info(name)?)))
}

/// Bytes of the header's length, with which a file begins.
const LENGTH: u64 = size_of::<u64>() as u64;

impl SafetensorsFile {
    fn open(path: PathBuf) -> Result<Self> {
        let data = Arc::new(RandomAccessFile::open(&path)?);
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let length = data.read(0..data.len().min(LENGTH))?;
        let header = length.as_slice().try_into().map_or(0, u64::from_le_bytes);
        let start = header.saturating_add(LENGTH).min(data.len());
        let (_, metadata) =
            SafeTensors::read_metadata(&data.read(0..start)?).map_err(|error| damaged(error.to_string()))?;
        // The header must describe the whole file, as `SafeTensors::deserialize` checks for one in memory.
        let described = start + metadata.data_len() as u64;
        if described != data.len() {
            return Err(damaged(format!(
                "its header describes {described} bytes, the file has {}",
                data.len()
            )));
        }
        Ok(Self { path, data, start, metadata })
    }
}

/// Opens the files that an index names, and checks that each tensor is where the index says.
fn shards(index_path: &Path) -> Result<Vec<SafetensorsFile>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index_path)
        .map_err(|source| Error::Read { path: index_path.to_owned(), source })?;
    let index: Index =
        serde_json::from_str(&text).map_err(|source| Error::Json { path: index_path.to_owned(), source })?;
    let mut names: Vec<&String> = index.weight_map.values().collect();
    names.sort();
    names.dedup();
    let files = names
        .into_iter()
        .map(|name| SafetensorsFile::open(index_path.with_file_name(name)))
        .collect::<Result<Vec<_>>>()?;
    let problems: Vec<String> = index
        .weight_map
        .iter()
        .filter(|(tensor, file)| {
            !files.iter().any(|shard| shard.path.ends_with(file) && shard.metadata.info(tensor).is_some())
        })
        .map(|(tensor, file)| format!("{tensor} is not in {file}, where the index says it is"))
        .collect();
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(Error::Tensors { path: index_path.to_owned(), problems })
    }
}
