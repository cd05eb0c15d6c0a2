//! Captioning as a task of the training engine.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use caption_data::{CaptionBatch, Padding, PictureBatch, PictureLoader, Prefetch, TokenizedCaptions};
use caption_model::{CaptionModel, TextBatch};
use train_ops::{ForwardContext, GraphCut, sample_key};
use trainer_core::{
    BatchSource, Batches, BoxError, Cut, Gradients, LossSum, LossTotal, Parameters, Segments, StepContext,
    Task, Warning,
};

use crate::captioning::PREFETCH;
use crate::features::{FeatureStore, PassFeatures, encode};
use crate::pictures::with_flag;
use crate::row_order::RowOrder;
use crate::step_graphs::{Pass, StepGraphs};
use crate::training_text::{TrainingText, length_multiple, padded_length};

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
    /// CUDA graphs of the passes, if they are to be used.
    pub graphs: Option<StepGraphs>,
    /// Writes the trained parameters into a checkpoint's folder.
    pub save: &'a dyn Fn(&Path) -> Result<(), BoxError>,
    /// Prepares the checkpoint of a step, on all processes of a job; `None` if there is nothing to prepare.
    pub before_saving: Option<&'a dyn Fn(usize) -> Result<(), BoxError>>,
}

/// The forward context of a micro-batch in training.
fn training(batch: &Batch, context: &StepContext) -> ForwardContext {
    let samples = context.first_sample..context.first_sample + batch.captions.batch_size() as u64;
    let keys = samples.map(|sample| sample_key(context.seed, context.step, sample));
    ForwardContext::training(keys.collect::<Vec<_>>())
}

impl CaptionTask<'_> {
    fn image_features(&self, batch: &Batch, ctx: &ForwardContext) -> Result<Tensor, BoxError> {
        if let Some(store) = &self.features {
            return Ok(store.batch(batch.captions.rows())?);
        }
        let pixel_values = batch.pixel_values(self.model.device())?;
        if self.vision_trains {
            Ok(self.model.encode_images(&pixel_values, ctx)?)
        } else {
            Ok(encode(self.model, &pixel_values)?)
        }
    }

    /// The text of a training batch.
    fn training_text(&self, batch: &Batch) -> Result<TextBatch, BoxError> {
        let (device, most) = (self.model.device(), self.model.tokens().max_length);
        let length = padded_length(batch.captions.seq_len(), most, device);
        let text = TrainingText::new(&batch.captions, length)?;
        Ok(self.model.text_batch(&text.input_ids, &text.labels, length_multiple(device))?)
    }

    fn training_loss(&self, batch: &Batch, ctx: &ForwardContext) -> Result<(Tensor, usize), BoxError> {
        let (features, text) = (self.image_features(batch, ctx)?, self.training_text(batch)?);
        Ok(self.model.text_loss(&features, &text, self.label_smoothing, ctx)?)
    }
}

impl Task for CaptionTask<'_> {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let (sum, targets) = self.training_loss(batch, &training(batch, context))?;
        Ok(LossSum { sum, targets })
    }

    fn train_segments(&self, batch: &Batch, context: &StepContext) -> Result<Segments, BoxError> {
        let ctx = training(batch, context).with_cuts();
        let (sum, targets) = self.training_loss(batch, &ctx)?;
        let cuts = ctx.take_cuts().into_iter();
        let cuts = cuts.map(|GraphCut { output, input }| Cut { output, input }).collect();
        Ok(Segments { loss: LossSum { sum, targets }, cuts })
    }

    fn train_gradients(
        &self,
        batch: &Batch,
        context: &StepContext,
        parameters: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        let Some(graphs) = self.graphs.as_ref().filter(|_| !self.vision_trains) else { return Ok(None) };
        let (model, label_smoothing) = (self.model, self.label_smoothing);
        let pass = Pass { model, parameters, label_smoothing, ctx: training(batch, context) };
        let features = match &self.features {
            Some(store) => PassFeatures::Stored(store, batch.captions.rows()),
            None => PassFeatures::Given(graphs.encode(model, &batch.pixel_values(model.device())?)?),
        };
        let (sum, targets, gradients) = graphs.run(&pass, &self.training_text(batch)?, &features)?;
        Ok(Some((LossSum { sum, targets }, gradients)))
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        let captions = CaptionBatch::concat(batches.iter().map(|batch| &batch.captions));
        Ok(Batch {
            captions: captions.ok_or("there are no batches to merge")?,
            pictures: batches.iter().flat_map(|batch| batch.pictures.clone()).collect(),
        })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        let (text, ctx) = (TrainingText::new(&batch.captions, 0)?, ForwardContext::inference());
        let text = self.model.text_batch(&text.input_ids, &text.labels, 1)?;
        let (sum, targets) = self.model.text_loss(&self.image_features(batch, &ctx)?, &text, 0.0, &ctx)?;
        Ok(LossTotal { sum: f64::from(sum.to_scalar::<f32>()?), targets })
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.captions.batch_size()
    }

    fn describe(&self, batch: &Batch) -> String {
        format!("rows {:?}", batch.captions.rows())
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.graphs.as_ref().map_or_else(Vec::new, StepGraphs::take_warnings)
    }

    fn before_saving(&self, global_step: usize) -> Result<(), BoxError> {
        self.before_saving.map_or(Ok(()), |prepare| prepare(global_step))
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
    /// The rows of the split, and their order in each epoch.
    pub rows: RowOrder,
    /// Which of their captions are used. It makes no difference for rows with one caption.
    pub references: References,
    /// Samples per batch.
    pub batch_size: usize,
    /// How captions are padded.
    pub padding: Padding,
}

impl CaptionBatches {
    /// The samples of an epoch without the first `done`, each as its row and the index of its caption; without the index
    /// if the caption is still to be drawn.
    fn samples(&self, epoch: usize, done: usize) -> caption_data::Result<Samples> {
        match self.references {
            References::Drawn(_) => Ok(Box::new(self.rows.epoch(epoch, done).map(|row| (row, None)))),
            References::All => {
                let rows: Vec<usize> = self.rows.epoch(epoch, 0).collect();
                let captions = self.captions.all(&rows)?.into_iter().skip(done);
                Ok(Box::new(captions.map(|(row, caption)| (row, Some(caption)))))
            }
        }
    }

    /// Reads the captions and pictures of a batch in an epoch, from any thread.
    fn reader(
        &self,
        epoch: usize,
    ) -> impl Fn(Vec<Sample>) -> caption_data::Result<Batch> + Send + Sync + use<> {
        let Self { captions, pictures, references, padding, .. } = self;
        let (captions, pictures, references, padding) =
            (Arc::clone(captions), pictures.clone(), *references, *padding);
        move |samples| {
            let caption = |(row, caption): Sample| match (caption, references) {
                (Some(caption), _) => Ok((row, caption)),
                (None, References::Drawn(seed)) => Ok((row, captions.drawn(row, seed, epoch)?)),
                (None, References::All) => Ok((row, 0)),
            };
            let samples = samples.into_iter().map(caption).collect::<caption_data::Result<Vec<_>>>()?;
            let rows: Vec<usize> = samples.iter().map(|(row, _)| *row).collect();
            let pictures = pictures.as_ref().map(|pictures| pictures.load(&rows)).transpose()?;
            let captions = captions.batch_of(&samples, padding)?;
            Ok(Batch { captions, pictures: pictures.into_iter().map(Arc::new).collect() })
        }
    }

    /// The number of samples in every epoch. A row that cannot be read is an error of its batch.
    fn sample_count(&self) -> usize {
        let rows = self.rows.rows();
        match self.references {
            References::Drawn(_) => rows.len(),
            References::All => rows.iter().map(|row| self.captions.references(*row).unwrap_or(1)).sum(),
        }
    }

    /// The batches of an epoch from `first` on, or only those with the indices `own`, which are in ascending order.
    fn read(&self, epoch: usize, first: usize, own: Option<Vec<usize>>) -> Batches<'_, Batch> {
        let mut samples = match self.samples(epoch, first * self.batch_size) {
            Ok(samples) => samples,
            Err(error) => return Box::new(std::iter::once(Err(unusable(error)))),
        };
        let batch_size = self.batch_size;
        let batches = std::iter::from_fn(move || {
            let batch: Vec<Sample> = samples.by_ref().take(batch_size).collect();
            (!batch.is_empty()).then_some(batch)
        });
        let end = own.as_ref().and_then(|own| own.last()).map_or(usize::MAX, |last| last + 1);
        let is_own = move |index: &usize| own.as_ref().is_none_or(|own| own.binary_search(index).is_ok());
        let batches =
            (first..end).zip(batches).filter(move |(index, _)| is_own(index)).map(|(_, batch)| batch);
        let read = self.reader(epoch);
        if self.pictures.is_none() {
            return Box::new(batches.map(move |batch| read(batch).map_err(unusable)));
        }
        match Prefetch::new(batches, 1, PREFETCH, read) {
            Err(error) => Box::new(std::iter::once(Err(error.into()))),
            Ok(batches) => Box::new(batches.map(|batch| batch.map_err(unusable))),
        }
    }
}

/// A row, and the index of one of its captions.
type Sample = (usize, Option<usize>);
type Samples = Box<dyn Iterator<Item = Sample> + Send>;

impl BatchSource for CaptionBatches {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.sample_count().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Batch> {
        self.read(epoch, first_batch, None)
    }

    fn batch_samples(&self, batch: usize) -> Option<usize> {
        Some(self.sample_count().saturating_sub(batch * self.batch_size).min(self.batch_size))
    }

    fn select(&self, epoch: usize, batches: Vec<usize>) -> Batches<'_, Batch> {
        match batches.first() {
            Some(&first) => self.read(epoch, first, Some(batches)),
            None => Box::new(std::iter::empty()),
        }
    }
}

/// Adds to the error of a row how a run avoids it.
fn unusable(error: caption_data::Error) -> BoxError {
    match error {
        error @ caption_data::Error::Row { .. } => format!(
            "{}; mend it, or begin again with --on-bad-row skip, which reads every row before training and leaves \
             such rows out",
            with_flag(&error)
        )
        .into(),
        error => error.into(),
    }
}
