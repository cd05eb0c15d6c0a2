use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use train_ops::RandomAccessFile;
use twox_hash::XxHash3_64;

/// Shape and type of every picture's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens per picture.
    pub tokens: usize,
    /// Values per token.
    pub width: usize,
    /// Storage type.
    pub dtype: DType,
}

impl Layout {
    /// Bytes of one picture.
    pub fn bytes(&self) -> usize {
        self.tokens * self.width * self.dtype.size_in_bytes()
    }
}

/// Bytes of a picture's fingerprint, and of the checksum of its features.
const FINGERPRINT: usize = size_of::<u128>();
const CHECKSUM: usize = size_of::<u64>();

/// A file of features, read one picture at a time and never changed. It is a safetensors file of three
/// tensors:
///
/// ```text
/// features   (pictures, tokens, width)
/// pictures   (pictures, 16) u8     the fingerprint of each
/// checksums  (pictures, 8) u8      of the features of each
/// ```
pub(super) struct Segment {
    path: PathBuf,
    /// `None` if the file is opened for each read.
    file: Option<RandomAccessFile>,
    layout: Layout,
    /// Offset of the features.
    start: usize,
    pictures: Vec<u128>,
    checksums: Vec<u64>,
}

impl Segment {
    /// Opens the file at `path`. It must contain features of `encoder` in this layout and nothing else.
    ///
    /// The features themselves are not read here: see [`is_intact`](Self::is_intact).
    pub(super) fn open(path: &Path, layout: Layout, encoder: u128) -> Result<Self> {
        let file = RandomAccessFile::open(path)?;
        let length = usize::try_from(file.len())?;
        let Some(count) = count(&file)? else { bail!("it is not a file of image features") };
        let body = (layout.bytes() + FINGERPRINT + CHECKSUM).checked_mul(count);
        let Some(body) = body.filter(|body| *body < length) else {
            bail!("it ends before the features of its {count} pictures");
        };
        let header = header(layout, count, encoder);
        if header.len() > length || file.read(0..header.len() as u64)? != header {
            bail!("it has the features of another encoder, or in another form");
        }
        if length != header.len() + body {
            bail!("it has {length} bytes instead of {}", header.len() + body);
        }
        let tables = file.read((header.len() + count * layout.bytes()) as u64..file.len())?;
        let (pictures, checksums) = tables.split_at(count * FINGERPRINT);
        let pictures = pictures.as_chunks().0.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect();
        let checksums = checksums.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let (path, file) = (path.to_owned(), Some(file));
        Ok(Self { path, start: header.len(), pictures, checksums, layout, file })
    }

    /// Opens the file for each read from now on: a process may have few files open at a time.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// The fingerprints of the pictures, in the order of their features.
    pub(super) fn pictures(&self) -> &[u128] {
        &self.pictures
    }

    /// Whether the features of one picture match their checksum.
    pub(super) fn is_intact(&self, index: usize) -> bool {
        self.read(index).is_ok_and(|bytes| checksum(self.pictures[index], &bytes) == self.checksums[index])
    }

    /// The features of one picture, `(tokens, width)`.
    pub(super) fn features(&self, index: usize, device: &Device) -> Result<Tensor> {
        let Layout { tokens, width, dtype } = self.layout;
        Ok(Tensor::from_raw_buffer(&self.read(index)?, dtype, &[tokens, width], device)?)
    }

    /// The bytes of the features of one picture.
    fn read(&self, index: usize) -> train_ops::Result<Vec<u8>> {
        let start = (self.start + index * self.layout.bytes()) as u64;
        let range = start..start + self.layout.bytes() as u64;
        match &self.file {
            Some(file) => file.read(range),
            None => RandomAccessFile::open(&self.path)?.read(range),
        }
    }
}

/// Writes a file of the features of `pictures`. `features` has them in the same order.
pub(super) fn write(
    file: &mut impl Write,
    layout: Layout,
    encoder: u128,
    pictures: &[u128],
    features: &mut impl Iterator<Item = Result<Tensor>>,
) -> Result<(), WriteError> {
    file.write_all(&header(layout, pictures.len(), encoder))?;
    let mut checksums = Vec::with_capacity(pictures.len() * CHECKSUM);
    let mut bytes = Vec::with_capacity(layout.bytes());
    for picture in pictures {
        let features = next(features).map_err(WriteError::Features)?;
        bytes.clear();
        features.write_bytes(&mut bytes).map_err(|error| WriteError::Features(error.into()))?;
        checksums.extend(checksum(*picture, &bytes).to_le_bytes());
        file.write_all(&bytes)?;
    }
    let fingerprints: Vec<u8> = pictures.iter().flat_map(|picture| picture.to_le_bytes()).collect();
    file.write_all(&fingerprints)?;
    Ok(file.write_all(&checksums)?)
}

/// The features of the next picture.
pub(super) fn next(features: &mut impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    features.next().context("the encoder gave features of fewer pictures than it was given")?
}

/// Why a file of features was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The features could not be computed.
    #[error(transparent)]
    Features(anyhow::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The checksum of a picture's features. It includes the picture, so equal features of two pictures have
/// different checksums.
fn checksum(picture: u128, features: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(picture as u64, features)
}

/// Everything before the features. Equal arguments give equal headers, so that a file is recognised by its
/// header.
fn header(layout: Layout, pictures: usize, encoder: u128) -> Vec<u8> {
    use safetensors::Dtype::U8;
    let Layout { tokens, width, dtype } = layout;
    let mut end = 0;
    let mut tensor = |dtype: safetensors::Dtype, shape: &[usize], bytes: usize| {
        let start = end;
        end += bytes;
        json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
    };
    let json = json!({
        "__metadata__": { "format": "image features 1", "encoder": format!("{encoder:032x}") },
        "features": tensor(dtype.into(), &[pictures, tokens, width], pictures * layout.bytes()),
        "pictures": tensor(U8, &[pictures, FINGERPRINT], pictures * FINGERPRINT),
        "checksums": tensor(U8, &[pictures, CHECKSUM], pictures * CHECKSUM),
    });
    let mut json = json.to_string();
    // Align the features.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

/// The number of pictures that a file claims to have; `None` if its header is not that of a safetensors file
/// with pictures.
fn count(file: &RandomAccessFile) -> train_ops::Result<Option<usize>> {
    const LENGTH: u64 = size_of::<u64>() as u64;
    if file.len() < LENGTH {
        return Ok(None);
    }
    let length = file.read(0..LENGTH)?.try_into().map_or(0, u64::from_le_bytes);
    let end = length.saturating_add(LENGTH);
    if end > file.len() {
        return Ok(None);
    }
    let json = serde_json::from_slice::<Value>(&file.read(LENGTH..end)?).ok();
    Ok(json.and_then(|json| json["pictures"]["shape"][0].as_u64()?.try_into().ok()))
}
