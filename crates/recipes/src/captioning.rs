//! From pictures to captions: a model with its tokenizer and its image processor.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use caption_data::{
    CaptionSource, CaptionTokenizer, ImageProcessor, OnBadImage, PictureBatch, PictureLoader,
};
use git_model::{GenerationConfig, GitForCausalLm};
use indicatif::{ProgressBar, ProgressStyle};
use train_ops::Pass;

/// Pictures that the frozen encoder works on at a time.
const ENCODER_BATCH: usize = 8;
/// Batches of pictures that are decoded and resized ahead.
pub(crate) const PREFETCH: usize = 4;

/// What the frozen vision encoder makes of each picture, computed once and kept in memory.
///
/// They are kept in the type of the model's weights: a model in bf16 would round them to bf16 before it multiplies them.
pub struct FeatureStore {
    /// `(tokens, vision_hidden)` by row.
    features: BTreeMap<usize, Tensor>,
}

impl FeatureStore {
    /// Encodes the pictures of `rows`, to be kept as `dtype`; decoding and resizing run ahead on a thread of their own.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn new(
        model: &GitForCausalLm,
        pictures: &PictureLoader,
        rows: &[usize],
        dtype: DType,
    ) -> Result<Self> {
        let bar = ProgressBar::new(rows.len() as u64)
            .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
            .with_message("image features");
        let batches: Vec<Vec<usize>> = rows.chunks(ENCODER_BATCH).map(<[usize]>::to_vec).collect();
        let mut features = BTreeMap::new();
        for batch in pictures.prefetch(batches, 1, PREFETCH)? {
            let batch = batch?;
            let encoded = encode(model, &batch)?.to_dtype(dtype)?;
            for (index, row) in batch.rows().iter().enumerate() {
                // A copy of its own: a view would keep the whole batch alive.
                features.insert(*row, encoded.get(index)?.force_contiguous()?);
            }
            bar.inc(batch.rows().len() as u64);
        }
        bar.finish_and_clear();
        Ok(Self { features })
    }

    /// The features of some rows, `(rows, tokens, vision_hidden)`.
    ///
    /// # Errors
    /// If a row was not among those that were encoded.
    pub fn batch(&self, rows: &[usize]) -> Result<Tensor> {
        let features = rows
            .iter()
            .map(|row| self.features.get(row).with_context(|| format!("row {row} has no image features")))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&features, 0)?.to_dtype(DType::F32)?)
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.features.values().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}

/// Features of decoded pictures, without a graph.
pub(crate) fn encode(model: &GitForCausalLm, pictures: &PictureBatch) -> Result<Tensor> {
    let pixel_values = pictures.pixel_values(model.device())?;
    Ok(model.encode_images(&pixel_values, &Pass::inference())?.detach())
}

/// A model that captions the rows of a dataset.
pub struct Captioner<'a> {
    /// The model.
    pub model: &'a GitForCausalLm,
    /// Its tokenizer.
    pub tokenizer: &'a CaptionTokenizer,
    /// The pictures.
    pub pictures: PictureLoader,
    /// What the encoder made of them, if that is kept.
    pub features: Option<Arc<FeatureStore>>,
}

/// A caption that was generated.
pub struct Generated {
    /// From the start token to the end token, if that was reached.
    pub ids: Vec<u32>,
    /// The caption without special tokens.
    pub text: String,
}

impl Captioner<'_> {
    /// Captions of some rows in one batch.
    ///
    /// # Errors
    /// If a picture cannot be read, or the decoding options contradict each other.
    pub fn caption(
        &self,
        rows: &[usize],
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<Generated>> {
        let features = match &self.features {
            Some(store) => store.batch(rows)?,
            None => encode(self.model, &self.pictures.load(rows)?)?,
        };
        self.model
            .generate(&features, prompt, config)?
            .into_iter()
            .map(|caption| {
                Ok(Generated { text: self.tokenizer.decode(&caption.ids, true)?, ids: caption.ids })
            })
            .collect()
    }

    /// Captions of many rows, in batches, with a progress bar that carries `message`.
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    pub fn caption_all(
        &self,
        rows: &[usize],
        config: &GenerationConfig,
        message: &str,
    ) -> Result<Vec<String>> {
        let bar = ProgressBar::new(rows.len() as u64)
            .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
            .with_message(message.to_owned());
        let mut captions = Vec::with_capacity(rows.len());
        for rows in rows.chunks(ENCODER_BATCH) {
            captions.extend(self.caption(rows, None, config)?.into_iter().map(|caption| caption.text));
            bar.inc(rows.len() as u64);
        }
        bar.finish_and_clear();
        Ok(captions)
    }
}

/// The loader of a dataset's pictures; one that cannot be read is an error.
pub fn pictures(source: &Arc<dyn CaptionSource>, processor: &ImageProcessor) -> PictureLoader {
    PictureLoader::new(Arc::clone(source), processor.clone(), OnBadImage::Fail)
}
