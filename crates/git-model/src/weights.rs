use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use train_ops::MappedFile;

use crate::words::FileRows;
use crate::{Error, Result};

/// The tensors of a checkpoint by name, read on demand from `model.safetensors`, from the shards that
/// `model.safetensors.index.json` lists, or from `pytorch_model.bin`.
pub(crate) enum Weights {
    Safetensors(Vec<SafetensorsFile>),
    Pickle { path: PathBuf, tensors: PthTensors },
}

/// One memory-mapped safetensors file.
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    data: Arc<MappedFile>,
    /// Offset of the first tensor's bytes.
    start: usize,
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

    /// The tensor called `name`, converted to `dtype`; `None` if there is none.
    pub(crate) fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let tensor = match self {
            Self::Safetensors(files) => match find(files, name) {
                None => None,
                Some((file, info)) => {
                    let stored = DType::try_from(info.dtype)?;
                    let (start, end) = info.data_offsets;
                    let range = file.start + start..file.start + end;
                    let bytes = &file.data[range.clone()];
                    let tensor = Tensor::from_raw_buffer(bytes, stored, &info.shape, &Device::Cpu)?;
                    file.data.release(range);
                    Some(tensor)
                }
            },
            Self::Pickle { path, tensors } => tensors
                .get(name)
                .map_err(|error| Error::Damaged { path: path.clone(), reason: format!("{name}: {error}") })?,
        };
        Ok(tensor.map(|tensor| tensor.to_dtype(dtype)?.to_device(device)).transpose()?)
    }

    /// The matrix called `name`, left in its memory-mapped file; `None` if there is no such matrix or no mapped file.
    pub(crate) fn rows(&self, name: &str) -> Result<Option<FileRows>> {
        let Self::Safetensors(files) = self else { return Ok(None) };
        let Some((file, info)) = find(files, name) else { return Ok(None) };
        let &[rows, width] = &info.shape[..] else { return Ok(None) };
        let start = file.start + info.data_offsets.0;
        Ok(Some(FileRows {
            file: Arc::clone(&file.data),
            start,
            rows,
            width,
            dtype: DType::try_from(info.dtype)?,
        }))
    }
}

/// The file that has the tensor called `name`, and the tensor's entry in its header.
fn find<'a>(files: &'a [SafetensorsFile], name: &str) -> Option<(&'a SafetensorsFile, &'a TensorInfo)> {
    files.iter().find_map(|file| Some((file, file.metadata.info(name)?)))
}

impl SafetensorsFile {
    fn open(path: PathBuf) -> Result<Self> {
        let data = Arc::new(MappedFile::open(&path)?);
        // Unlike read_metadata(), deserialize() checks that the header describes the whole file.
        let metadata = SafeTensors::deserialize(&data)
            .and_then(|_| SafeTensors::read_metadata(&data))
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() });
        let (header, metadata) = metadata?;
        Ok(Self { path, data, start: header + 8, metadata })
    }
}

/// Opens the files of an index, and checks that each has the tensors that the index lists for it.
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
