//! The batches of the captioning task.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use caption_data::{CaptionBatch, Padding, PictureBatch, PictureLoader, Prefetch, TokenizedCaptions};
use trainer_core::{BatchSource, Batches, BoxError};

use crate::captioning::PREFETCH;
use crate::pictures::with_flag;
use crate::row_order::RowOrder;

/// Captions, with their pictures unless features are cached. A merged batch has the pictures of each of its parts.
pub struct Batch {
    pub(crate) captions: CaptionBatch,
    pub(crate) pictures: Vec<Arc<PictureBatch>>,
}

impl Batch {
    /// All pictures, `(batch, channels, size, size)`.
    pub(crate) fn pixel_values(&self, device: &Device) -> Result<Tensor, BoxError> {
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
