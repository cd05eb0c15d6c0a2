//! From pictures to captions: a model with its tokenizer and its image processor.

use std::sync::Arc;

use anyhow::Result;
use caption_data::{
    CaptionSource, CaptionTokenizer, ImageProcessor, OnBadImage, PictureLoader, TokenizedCaptions,
};
use caption_model::{CaptionModel, DecodingGraphs, Draft, GenerationConfig, RefusedStep};
use indicatif::ProgressStyle;
use trainer_core::Warning;

use crate::features::{FeatureStore, encode};
use crate::options::{Drafting, Storage};
use crate::prompts::{after_prompt, by_prompt};
use crate::terminal::{progress_bar, warn};

/// Batch size of the frozen encoder.
pub(crate) const ENCODER_BATCH: usize = 8;
/// Number of batches of pictures that are decoded and resized in advance.
pub(crate) const PREFETCH: usize = 4;

/// Bytes of weights that may stay in a processor's caches from one token to the next.
const CACHES: usize = 64 << 20;

/// The draft model of `model`, if `drafting` enables it. `storage` is the type of the model's weights,
/// `sequences` the number of beams or draws that are decoded at a time.
///
/// # Errors
/// As [`CaptionModel::draft`].
pub fn draft(
    model: &dyn CaptionModel,
    storage: Storage,
    sequences: usize,
    drafting: Drafting,
) -> caption_model::Result<Option<Draft>> {
    let helps = helps(storage, model.caption_config().decoder_weights(), sequences);
    match drafting {
        Drafting::Always => model.draft().map(Some),
        Drafting::Auto if helps && model.device().is_cpu() => model.draft().map(Some),
        Drafting::Auto | Drafting::Never => Ok(None),
    }
}

/// Whether speculative decoding is faster, for a number of `sequences` decoded at a time and a number of
/// decoder `weights`.
fn helps(storage: Storage, weights: usize, sequences: usize) -> bool {
    // With up to this many sequences, verifying several rows takes about one read of the weights. bf16 weights
    // are read in half the time, so fewer sequences are faster with a draft.
    let (bytes, most) = match storage {
        Storage::F32 => (4, 4),
        Storage::Bf16 => (2, 1),
        Storage::Int8 => return false,
    };
    bytes * weights > CACHES && sequences <= most
}

/// A model that captions the rows of a dataset.
pub struct Captioner<'a> {
    /// The model.
    pub model: &'a dyn CaptionModel,
    /// Its tokenizer.
    pub tokenizer: &'a CaptionTokenizer,
    /// The loader of pictures.
    pub pictures: PictureLoader,
    /// Cached image features, if there are any.
    pub features: Option<Arc<FeatureStore>>,
    /// The prompts that captions continue, for a dataset with prompts.
    pub prompts: Option<&'a TokenizedCaptions>,
}

impl Captioner<'_> {
    /// Captions some rows with the same prompt in one batch. The captions do not repeat the prompt.
    fn caption(
        &self,
        rows: &[usize],
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        let features = match &self.features {
            Some(store) => store.batch(rows)?,
            None => encode(self.model, &self.pictures.load(rows)?.pixel_values(self.model.device())?)?,
        };
        let given = prompt.map_or(0, <[u32]>::len);
        let captions = match prompt {
            Some(_) => self.model.generate(&features, prompt, &after_prompt(config, given, self.model))?,
            None => self.model.generate(&features, None, config)?,
        };
        captions.iter().map(|caption| Ok(self.tokenizer.decode(&caption.ids[given..], true)?)).collect()
    }

    /// Captions many rows in batches, with a progress bar that shows `message`. Rows with the same prompt are
    /// captioned together, and the captions do not repeat the prompt.
    ///
    /// # Errors
    /// If a picture cannot be read, or the decoding options contradict each other.
    pub fn caption_all(
        &self,
        rows: &[usize],
        config: &GenerationConfig,
        message: &str,
    ) -> Result<Vec<String>> {
        let bar = progress_bar(rows.len())
            .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
            .with_message(message.to_owned());
        let mut captions = vec![String::new(); rows.len()];
        let prompt = |row: &usize| match self.prompts {
            Some(prompts) => prompts.prompt(*row),
            None => Ok(None),
        };
        let prompts = rows.iter().map(prompt).collect::<Result<Vec<_>, _>>()?;
        for (prompt, places) in by_prompt(prompts) {
            for places in places.chunks(ENCODER_BATCH) {
                let rows: Vec<usize> = places.iter().map(|place| rows[*place]).collect();
                for (place, caption) in places.iter().zip(self.caption(&rows, prompt.as_deref(), config)?) {
                    captions[*place] = caption;
                }
                bar.inc(rows.len() as u64);
            }
        }
        bar.finish_and_clear();
        warn_if_refused(self.model);
        Ok(captions)
    }
}

/// Prints a warning, once for each model, if its decoding steps could not be recorded as CUDA graphs.
pub(crate) fn warn_if_refused(model: &dyn CaptionModel) {
    if let Some(RefusedStep { sequences, reason }) =
        model.decoding_graphs().and_then(DecodingGraphs::take_refusal)
    {
        let work = format!("decoding steps of {sequences} captions");
        warn(Warning::GraphNotRecorded { work, reason });
    }
}

/// The loader of a dataset's pictures; a picture that cannot be read is an error.
pub fn pictures(source: &Arc<dyn CaptionSource>, processor: &ImageProcessor) -> PictureLoader {
    PictureLoader::new(Arc::clone(source), processor.clone(), OnBadImage::Fail)
}

#[cfg(test)]
mod tests {
    use caption_model::LoadOptions;
    use train_ops::FrozenBuilder;

    use super::*;

    #[test]
    fn drafting_is_enabled_for_memory_bound_models() {
        let base = 66_000_000;
        let with = |storage| [1, 2, 4, 5].map(|sequences| helps(storage, base, sequences));
        assert_eq!(with(Storage::F32), [true, true, true, false]);
        assert_eq!(with(Storage::Bf16), [true, false, false, false]);
        assert_eq!(with(Storage::Int8), [false; 4]);
        assert!(!helps(Storage::F32, 16_000_000, 1), "the caches hold so many");
    }

    #[test]
    fn models_that_fit_into_processor_caches_are_drafted_only_on_demand() {
        let checkpoint = captioner::open_checkpoint(crate::embedded::checkpoint().unwrap()).unwrap();
        let model = checkpoint.load_model(&mut FrozenBuilder, &LoadOptions::default()).unwrap();
        let drafted = |drafting| draft(model.as_ref(), Storage::F32, 1, drafting).unwrap().is_some();
        assert_eq!([Drafting::Auto, Drafting::Always, Drafting::Never].map(drafted), [false, true, false]);
    }
}
