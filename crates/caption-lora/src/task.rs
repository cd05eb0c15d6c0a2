//! Captioning as a task of the training engine.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use caption_data::{CaptionBatch, Padding, PictureBatch, PictureLoader, TokenizedCaptions};
use caption_model::CaptionModel;
use train_ops::{ForwardContext, sample_key};
use trainer_core::{BatchSource, Batches, BoxError, LossSum, LossTotal, StepContext, Task, epoch_order};

use crate::captioning::PREFETCH;
use crate::features::{FeatureStore, encode};

/// Captions, with their pictures unless features are cached. A merged batch has the pictures of each of its parts.
pub struct Batch {
    captions: CaptionBatch,
    pictures: Vec<Arc<PictureBatch>>,
}

impl Batch {
    fn pixel_values(&self, device: &Device) -> Result<Tensor, BoxError> {
        match &self.pictures[..] {
            [] => Err("a batch has neither pictures nor features".into()),
            [pictures] => Ok(pictures.pixel_values(device)?),
            pictures => {
                let values = pictures.iter().map(|pictures| pictures.pixel_values(device));
                Ok(Tensor::cat(&values.collect::<Result<Vec<_>, _>>()?, 0)?)
            }
        }
    }
}

/// The captioning task.
pub struct CaptionTask<'a> {
    /// The model.
    pub model: &'a dyn CaptionModel,
    /// Cached image features; `None` if they are computed for each batch.
    pub features: Option<Arc<FeatureStore>>,
    /// Whether the vision encoder is trained.
    pub vision_trains: bool,
    /// Label smoothing, in training only: validation losses stay comparable between runs, and their
    /// exponential is a perplexity.
    pub label_smoothing: f32,
    /// Writes the trained parameters into a checkpoint's folder.
    pub save: &'a dyn Fn(&Path) -> Result<(), BoxError>,
}

impl CaptionTask<'_> {
    fn loss(
        &self,
        batch: &Batch,
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize), BoxError> {
        let features = match &self.features {
            Some(store) => store.batch(batch.captions.rows())?,
            None => {
                let pixel_values = batch.pixel_values(self.model.device())?;
                if self.vision_trains {
                    self.model.encode_images(&pixel_values, ctx)?
                } else {
                    encode(self.model, &pixel_values)?
                }
            }
        };
        let input_ids = batch.captions.input_ids(self.model.device())?;
        let labels = batch.captions.labels(&Device::Cpu)?.to_vec2::<i64>()?;
        Ok(self.model.smoothed_loss(&features, &input_ids, &labels, label_smoothing, ctx)?)
    }
}

impl Task for CaptionTask<'_> {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let samples = context.first_sample..context.first_sample + batch.captions.batch_size() as u64;
        let keys: Vec<u64> = samples.map(|sample| sample_key(context.seed, context.step, sample)).collect();
        let (sum, targets) = self.loss(batch, self.label_smoothing, &ForwardContext::training(keys))?;
        Ok(LossSum { sum, targets })
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        let captions = CaptionBatch::concat(batches.iter().map(|batch| &batch.captions));
        Ok(Batch {
            captions: captions.ok_or("there are no batches to merge")?,
            pictures: batches.iter().flat_map(|batch| batch.pictures.clone()).collect(),
        })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        let (sum, targets) = self.loss(batch, 0.0, &ForwardContext::inference())?;
        Ok(LossTotal { sum: f64::from(sum.to_scalar::<f32>()?), targets })
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.captions.batch_size()
    }

    fn describe(&self, batch: &Batch) -> String {
        format!("rows {:?}", batch.captions.rows())
    }

    fn save_model(&self, directory: &Path) -> Result<(), BoxError> {
        (self.save)(directory)
    }
}

/// Selects the captions of a row that go into its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// One per epoch, drawn from this seed, the epoch and the row: for training.
    Drawn(u64),
    /// All of them, one after another: for evaluation.
    All,
}

/// The rows of one split as batches.
pub struct CaptionBatches {
    /// The dataset's captions.
    pub captions: Arc<TokenizedCaptions>,
    /// The dataset's pictures, if batches contain them.
    pub pictures: Option<PictureLoader>,
    /// The rows of the split.
    pub rows: Vec<usize>,
    /// Which of their captions are used. It makes no difference for rows with one caption.
    pub references: References,
    /// Samples per batch.
    pub batch_size: usize,
    /// How captions are padded.
    pub padding: Padding,
    /// The seed of each epoch's order; `None` for the order of `rows`.
    pub shuffle: Option<u64>,
}

/// The rows of the first `samples` training samples, in no particular order: all rows, unless training ends
/// within its first epoch.
pub fn rows_of_first_samples(rows: &[usize], shuffle: Option<u64>, samples: usize) -> Vec<usize> {
    match shuffle {
        Some(seed) if samples < rows.len() => {
            epoch_order(seed, 0, rows.len()).into_iter().take(samples).map(|index| rows[index]).collect()
        }
        _ => rows.iter().copied().take(samples).collect(),
    }
}

impl CaptionBatches {
    /// The captions of some rows in an epoch, each as its row and its index in the row.
    fn captions_of(&self, rows: &[usize], epoch: usize) -> Vec<(usize, usize)> {
        match self.references {
            References::Drawn(seed) => {
                rows.iter().map(|row| (*row, self.captions.drawn(*row, seed, epoch))).collect()
            }
            References::All => self.captions.all(rows),
        }
    }

    /// The number of samples in every epoch.
    fn samples(&self) -> usize {
        match self.references {
            References::Drawn(_) => self.rows.len(),
            References::All => self.captions.all(&self.rows).len(),
        }
    }
}

impl BatchSource for CaptionBatches {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.samples().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Batch> {
        self.select(epoch, (first_batch..self.batches_per_epoch()).collect())
    }

    fn batch_samples(&self, batch: usize) -> Option<usize> {
        Some(self.samples().saturating_sub(batch * self.batch_size).min(self.batch_size))
    }

    fn select(&self, epoch: usize, batches: Vec<usize>) -> Batches<'_, Batch> {
        let rows: Vec<usize> = match self.shuffle {
            Some(seed) => {
                epoch_order(seed, epoch, self.rows.len()).into_iter().map(|index| self.rows[index]).collect()
            }
            None => self.rows.clone(),
        };
        let captions = self.captions_of(&rows, epoch);
        let chunks: Vec<&[(usize, usize)]> = captions.chunks(self.batch_size).collect();
        let batches: Vec<Vec<(usize, usize)>> =
            batches.into_iter().filter_map(|batch| Some(chunks.get(batch)?.to_vec())).collect();
        let batch = move |captions: Vec<(usize, usize)>, pictures| {
            Ok(Batch { captions: self.captions.batch_of(&captions, self.padding)?, pictures })
        };
        let Some(pictures) = &self.pictures else {
            return Box::new(batches.into_iter().map(move |captions| batch(captions, Vec::new())));
        };
        let rows = |captions: &Vec<(usize, usize)>| captions.iter().map(|(row, _)| *row).collect();
        let rows: Vec<Vec<usize>> = batches.iter().map(rows).collect();
        match pictures.prefetch(rows, 1, PREFETCH) {
            Err(error) => Box::new(std::iter::once(Err(error.into()))),
            Ok(loaded) => Box::new(
                batches
                    .into_iter()
                    .zip(loaded)
                    .map(move |(captions, pictures)| batch(captions, vec![Arc::new(pictures?)])),
            ),
        }
    }
}
