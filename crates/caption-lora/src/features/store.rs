use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use caption_data::PictureLoader;
use caption_model::CaptionModel;
use indicatif::ProgressStyle;
use tempfile::TempDir;
use train_ops::copy_rows;

use super::files::Files;
use super::segment::{Layout, next};
use super::{CachePlace, encode};
use crate::captioning::{ENCODER_BATCH, PREFETCH};
use crate::terminal::progress_bar;

/// The frozen vision encoder's image features, computed once.
///
/// They are stored in the type of the model's weights, because a model in bf16 rounds them to bf16 before it
/// multiplies them, or in bf16 if they are large ([`Layout::new`]). The storage location does not change their
/// bits.
pub struct FeatureStore {
    layout: Layout,
    device: Device,
    /// The fingerprint of each row's picture.
    pictures: BTreeMap<usize, u128>,
    features: Features,
    pub(super) encoded: usize,
    /// How many features earlier runs had cached, and where.
    pub(super) found: Option<(usize, PathBuf)>,
    pub(super) damaged: Vec<String>,
    /// Bytes of files in the same folder that this run does not use.
    unneeded: u64,
    /// The folder of a job's features, which is removed with the store.
    pub(super) job_folder: Option<TempDir>,
}

enum Features {
    Memory(BTreeMap<u128, Tensor>),
    Files(Files),
}

impl FeatureStore {
    /// Encodes the pictures of `rows` that are not cached yet. Pictures are decoded and resized in advance on
    /// another thread.
    ///
    /// # Errors
    /// If a picture cannot be read, and as [`fill`](Self::fill).
    pub fn new(
        model: &dyn CaptionModel,
        pictures: &PictureLoader,
        rows: &[usize],
        layout: Layout,
        place: &CachePlace,
    ) -> Result<Self> {
        // In ascending order, the order of the source's files. Without a cache folder no other run looks the
        // features up, so the row number is a sufficient key.
        let sorted: BTreeSet<usize> = rows.iter().copied().collect();
        let fingerprint = |row: usize| match place.between_runs {
            Some(_) => pictures.fingerprint(row),
            None => Ok(row as u128),
        };
        let rows = sorted.into_iter().map(|row| Ok((row, fingerprint(row)?)));
        Self::encoded_by(model, pictures, &rows.collect::<Result<Vec<_>>>()?, layout, place)
    }

    /// The store of some rows, each with the fingerprint of its picture; `model` encodes those that are not cached.
    pub(super) fn encoded_by(
        model: &dyn CaptionModel,
        pictures: &PictureLoader,
        rows: &[(usize, u128)],
        layout: Layout,
        place: &CachePlace,
    ) -> Result<Self> {
        Self::fill(rows, layout, model.device(), place, |rows| {
            let bar = progress_bar(rows.len())
                .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
                .with_message("image features");
            let batches: Vec<Vec<usize>> = rows.chunks(ENCODER_BATCH).map(<[usize]>::to_vec).collect();
            Ok(pictures.prefetch(batches, 1, PREFETCH)?.map(move |batch| {
                let batch = batch?;
                let features = encode(model, &batch.pixel_values(model.device())?)?;
                bar.inc(batch.rows().len() as u64);
                Ok(features)
            }))
        })
    }

    /// The store of some rows, each with the fingerprint of its picture. `encode` is called with the rows
    /// whose features are not cached yet, if there are any. It returns their features in that order, in
    /// batches of any size, `(pictures, tokens, width)`.
    ///
    /// # Errors
    /// The errors of `encode`; if its features do not have this layout; if a file cannot be written. The
    /// incomplete file is removed then, and complete ones stay.
    pub fn fill<F: Iterator<Item = Result<Tensor>>>(
        rows: &[(usize, u128)],
        layout: Layout,
        device: &Device,
        place: &CachePlace,
        encode: impl FnOnce(Vec<usize>) -> Result<F>,
    ) -> Result<Self> {
        let pictures: BTreeMap<usize, u128> = rows.iter().copied().collect();
        let wanted: BTreeSet<u128> = pictures.values().copied().collect();
        let (mut files, damaged) = Files::open(place, layout, &wanted)?;
        let found = place.between_runs.as_ref().map(|(dir, _)| (files.len(), dir.clone()));
        let unneeded = files.unneeded();
        let fits = wanted.len().saturating_mul(layout.bytes()) <= place.memory;

        let (rows, missing): (Vec<usize>, Vec<u128>) = missing(rows, &files).into_iter().unzip();
        let mut memory = BTreeMap::new();
        if !missing.is_empty() {
            let mut features = encode(rows)?.flat_map(|batch| one_by_one(batch, layout));
            if fits && place.between_runs.is_none() {
                for picture in &missing {
                    // Copied, because a view would keep the whole batch in memory.
                    memory.insert(*picture, next(&mut features)?.force_contiguous()?);
                }
            } else {
                files.add(place, layout, &missing, &mut features)?;
            }
        }
        let features = if fits {
            memory.extend(files.into_memory(device)?);
            Features::Memory(memory)
        } else {
            Features::Files(files)
        };
        let (device, encoded) = (device.clone(), missing.len());
        Ok(Self { layout, device, pictures, features, encoded, found, damaged, unneeded, job_folder: None })
    }

    /// The features of some rows, `(rows, tokens, vision_hidden)`.
    ///
    /// # Errors
    /// If a row is not in the store.
    pub fn batch(&self, rows: &[usize]) -> Result<Tensor> {
        let features = rows.iter().map(|row| self.of_row(*row)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&features, 0)?.to_dtype(DType::F32)?)
    }

    /// Writes the [`batch`](Self::batch) to a tensor of its shape.
    ///
    /// # Errors
    /// As `batch`, and if the tensor has another shape.
    pub fn write_batch(&self, rows: &[usize], to: &Tensor) -> Result<()> {
        let features = rows.iter().map(|row| self.of_row(*row)).collect::<Result<Vec<_>>>()?;
        Ok(copy_rows(to, &features)?)
    }

    fn of_row(&self, row: usize) -> Result<Tensor> {
        let picture = self.pictures.get(&row).copied();
        let features = picture.map(|picture| match &self.features {
            Features::Memory(features) => Ok(features.get(&picture).cloned()),
            Features::Files(files) => files.features(picture, &self.device),
        });
        features.transpose()?.flatten().with_context(|| format!("row {row} has no image features"))
    }

    /// Pictures that had to be encoded.
    pub fn encoded(&self) -> usize {
        self.encoded
    }

    /// Descriptions of cached features that were damaged and have been computed again.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// Describes files in the folder that belong to other models or pictures, and how to remove them. Nothing
    /// is deleted here, as other runs may share the folder; a file's modification time is that of its last
    /// use.
    pub fn unneeded(&self) -> Option<String> {
        let (_, dir) = self.found.as_ref().filter(|_| self.unneeded > 0)?;
        let (dir, size) = (dir.display(), self.unneeded as f64 / 1e6);
        Some(format!(
            "{dir} also has {size:.1} MB of features that this run has no use for; what no run used for 30 days is deleted by: \
             find '{dir}' -name '*.safetensors' -mtime +30 -delete"
        ))
    }

    /// Whether the features are read from files.
    pub(super) fn is_in_files(&self) -> bool {
        matches!(self.features, Features::Files(_))
    }

    /// Bytes of all features, in memory and in files.
    pub fn bytes(&self) -> usize {
        let pictures: BTreeSet<&u128> = self.pictures.values().collect();
        pictures.len() * self.layout.bytes()
    }
}

/// `140 encoded, 560 from runs/features; 424 MB in memory`, and the type if it is not f32.
impl Display for FeatureStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} encoded", self.encoded)?;
        if let Some((count, dir)) = &self.found {
            write!(f, ", {count} from {}", dir.display())?;
        }
        let where_to = match self.features {
            Features::Memory(_) => "in memory",
            Features::Files(_) => "in files",
        };
        write!(f, "; {:.0} MB {where_to}", self.bytes() as f64 / 1e6)?;
        match self.layout.dtype {
            DType::F32 => Ok(()),
            dtype => write!(f, ", as {}", dtype.as_str()),
        }
    }
}

/// The rows whose features are not in the files, each with its picture. Rows may share a picture; the first one counts.
pub(super) fn missing(rows: &[(usize, u128)], files: &Files) -> Vec<(usize, u128)> {
    let mut seen = BTreeSet::new();
    let missing = rows.iter().filter(|(_, picture)| !files.contains(*picture) && seen.insert(*picture));
    missing.copied().collect()
}

/// The features of each picture of a batch, in the storage type.
fn one_by_one(batch: Result<Tensor>, layout: Layout) -> Vec<Result<Tensor>> {
    let split = |batch: Tensor| {
        let (pictures, tokens, width) = batch.dims3()?;
        if (tokens, width) != (layout.tokens, layout.width) {
            bail!(
                "features of {tokens} x {width} numbers came out, and {} x {} were expected",
                layout.tokens,
                layout.width
            );
        }
        let batch = batch.to_dtype(layout.dtype)?;
        (0..pictures).map(|index| Ok(batch.get(index)?)).collect::<Result<Vec<_>>>()
    };
    match batch.and_then(split) {
        Ok(features) => features.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}
