use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use torch_files::{LFS_POINTER, TorchFile};
use train_ops::RandomAccessFile;

use crate::config_file::read_json;
use crate::words::FileRows;
use crate::{Error, Result};

/// The tensors of a checkpoint by name, read on demand: from one file, or from the shards that an index lists.
pub(crate) enum Weights {
    /// `model.safetensors`, or the shards of `model.safetensors.index.json`.
    Safetensors(Vec<SafetensorsFile>),
    /// `pytorch_model.bin`, or the shards of `pytorch_model.bin.index.json`.
    Torch(Vec<TorchFile>),
}

/// One safetensors file, whose tensors are read one at a time.
pub(crate) struct SafetensorsFile {
    data: Arc<RandomAccessFile>,
    /// Offset of the first tensor's bytes.
    start: u64,
    metadata: Metadata,
}

impl Weights {
    /// Opens the first of a folder's files in the order in which transformers looks for them.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        if let Some(path) = file("model.safetensors") {
            Ok(Self::Safetensors(vec![SafetensorsFile::open(path)?]))
        } else if let Some(index) = file("model.safetensors.index.json") {
            let has = |file: &SafetensorsFile, name: &str| file.metadata.info(name).is_some();
            Ok(Self::Safetensors(shards(&index, SafetensorsFile::open, has)?))
        } else if let Some(path) = file("pytorch_model.bin") {
            Ok(Self::Torch(vec![TorchFile::open(path)?]))
        } else if let Some(index) = file("pytorch_model.bin.index.json") {
            let has = |file: &TorchFile, name: &str| file.dtype(name).is_some();
            Ok(Self::Torch(shards(&index, |path| Ok(TorchFile::open(path)?), has)?))
        } else {
            let wanted = "weights (model.safetensors or pytorch_model.bin, or the index of its shards)";
            Err(Error::Missing { dir: dir.to_owned(), wanted })
        }
    }

    /// Name and shape of every tensor.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(files) => files
                .iter()
                .flat_map(|file| file.metadata.tensors())
                .map(|(name, info)| (name, info.shape.clone()))
                .collect(),
            Self::Torch(files) => files
                .iter()
                .flat_map(TorchFile::shapes)
                .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
                .collect(),
        }
    }

    /// The type that a tensor is stored in; `None` if the files have none of that name.
    pub(crate) fn dtype(&self, name: &str) -> Result<Option<DType>> {
        Ok(match self {
            Self::Safetensors(files) => {
                find(files, name).map(|(_, info)| DType::try_from(info.dtype)).transpose()?
            }
            Self::Torch(files) => files.iter().find_map(|file| file.dtype(name)),
        })
    }

    /// The tensor called `name`, converted to `dtype`; `None` if there is none.
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
            Self::Torch(files) => match files.iter().find(|file| file.dtype(name).is_some()) {
                None => None,
                Some(file) => file.tensor(name)?,
            },
        };
        Ok(tensor.map(|tensor| tensor.to_dtype(dtype)?.to_device(device)).transpose()?)
    }

    /// The matrix called `name`, left in its safetensors file; `None` if there is no such matrix or no such file.
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

/// The file that has the tensor called `name`, and the tensor's entry in its header.
fn find<'a>(files: &'a [SafetensorsFile], name: &str) -> Option<(&'a SafetensorsFile, &'a TensorInfo)> {
    files.iter().find_map(|file| Some((file, file.metadata.info(name)?)))
}

/// Bytes of the header's length, with which a file begins.
const LENGTH: u64 = size_of::<u64>() as u64;
/// Bytes of the longest header that is read, as in the safetensors library.
const MAX_HEADER: u64 = 100_000_000;

impl SafetensorsFile {
    fn open(path: PathBuf) -> Result<Self> {
        let data = Arc::new(RandomAccessFile::open(&path)?);
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        if data.read(0..data.len().min(LFS_POINTER.len() as u64))? == LFS_POINTER {
            return Err(Error::LfsPointer { path });
        }
        let length = data.read(0..data.len().min(LENGTH))?;
        let header = length.as_slice().try_into().map_or(0, u64::from_le_bytes);
        if header == 0 || header > MAX_HEADER || LENGTH + header > data.len() {
            return Err(damaged(format!("a header of {header} bytes does not fit {} bytes", data.len())));
        }
        let start = LENGTH + header;
        // Checks the offsets, shapes and types of the tensors against one another.
        let metadata: Metadata = serde_json::from_slice(&data.read(LENGTH..start)?)
            .map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
        // For a file in memory, `SafeTensors::deserialize` checks this.
        let described = start + metadata.data_len() as u64;
        if described != data.len() {
            let reason = format!("its header describes {described} bytes, the file has {}", data.len());
            return Err(damaged(reason));
        }
        Ok(Self { data, start, metadata })
    }
}

/// Opens the files of an index, and checks that each has the tensors that the index lists for it.
fn shards<F>(
    index_path: &Path,
    open: impl Fn(PathBuf) -> Result<F>,
    has: impl Fn(&F, &str) -> bool,
) -> Result<Vec<F>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = read_json(index_path)?;
    let refuse = |problems| Err(Error::Tensors { path: index_path.to_owned(), problems });
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let paths: Vec<(&String, PathBuf)> =
        names.into_iter().map(|name| (name, index_path.with_file_name(name))).collect();
    let missing: Vec<String> = paths
        .iter()
        .filter(|(_, path)| !path.is_file())
        .map(|(name, _)| format!("the file {name} is not there; download it too"))
        .collect();
    if !missing.is_empty() {
        return refuse(missing);
    }
    let files: BTreeMap<&String, F> =
        paths.into_iter().map(|(name, path)| Ok((name, open(path)?))).collect::<Result<_>>()?;
    let problems: Vec<String> = index
        .weight_map
        .iter()
        .filter(|(tensor, file)| !has(&files[*file], tensor))
        .map(|(tensor, file)| format!("{tensor} is not in {file}, where the index says it is"))
        .collect();
    if problems.is_empty() { Ok(files.into_values().collect()) } else { refuse(problems) }
}
