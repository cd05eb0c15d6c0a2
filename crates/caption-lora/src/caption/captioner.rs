use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::DType;
use caption_data::{CaptionTokenizer, OnBadImage, PictureLoader};
use caption_model::{Caption, CaptionModel, Draft, GenerationConfig, LoadOptions};
use indicatif::{ProgressBar, ProgressStyle};
use peft_lora::LoraBuilder;
use train_ops::{ForwardContext, FrozenBuilder, Int8Builder, LayerBuilder};

use super::Inputs;
use crate::captioning;
use crate::open::{self, Pretrained};
use crate::options::{self, Storage};
use crate::prompts::Prompts;
use crate::terminal::{say_error, warn};

/// A model with everything that is needed to caption [`Inputs`].
pub struct PictureCaptioner<'a> {
    options: &'a options::Caption,
    inputs: &'a Inputs,
    pretrained: Pretrained,
    model: Box<dyn CaptionModel>,
    draft: Option<Draft>,
    prompts: Prompts,
    bad_words: Vec<Vec<u32>>,
    loader: PictureLoader,
}

/// The captions of one picture.
pub struct Captioned {
    /// Its row among the inputs.
    pub row: usize,
    /// The row's prompt, which the captions continue, if each row has one.
    pub prompt: Option<String>,
    /// Its captions, best first, or in the order of sampling.
    pub captions: Vec<TextCaption>,
    /// Seconds for one picture of its batch.
    pub seconds: f64,
}

/// A caption as text.
pub struct TextCaption {
    /// Token ids, from the start token to the end token if it was reached.
    pub ids: Vec<u32>,
    /// The text of all tokens; for a model for questions, the answer alone.
    pub text: String,
    /// The text after the picture's own prompt, if it has one.
    pub answer: Option<String>,
    /// The score of the search (see [`caption_model::Caption`]).
    pub score: f32,
}

impl<'a> PictureCaptioner<'a> {
    /// Opens the model and its adapter, and checks prompts and decoding options.
    ///
    /// # Errors
    /// If a file cannot be read or does not fit the others, or if decoding options contradict each other.
    pub fn open(options: &'a options::Caption, inputs: &'a Inputs) -> Result<Self> {
        let pretrained = open::pretrained(&options.model)?;
        pretrained.say_commit();
        let has_prompt = options.decoding.prompt.is_some() || options.prompt_column.is_some();
        if pretrained.checkpoint.architecture().needs_prompt && !has_prompt {
            bail!(
                "{} answers questions about pictures: give it one with --prompt, or one for each picture with \
                 --prompt-column",
                pretrained.name
            );
        }
        let prompts = prompts(options, inputs, &pretrained)?;
        if let Some(cut) = prompts.cut() {
            warn(cut);
        }
        if let Some(unknown) = prompts.unknown() {
            warn(unknown);
        }
        let bad_words = bad_words(&options.decoding.bad_words, &pretrained.tokenizer)?;
        let config = resolve(options, &pretrained, &bad_words, prompts.longest())?;
        let model = model(options, &pretrained)?;
        let beams = config.num_beams.max(config.num_return_sequences);
        let sequences = options.batch_size.min(inputs.rows.len()) * beams;
        let draft = captioning::draft(model.as_ref(), options.dtype, sequences, options.draft)?;
        let loader =
            PictureLoader::new(inputs.source.clone(), pretrained.processor.clone(), OnBadImage::Skip);
        Ok(Self { options, inputs, pretrained, model, draft, prompts, bad_words, loader })
    }

    /// Captions all pictures in batches with a progress bar, and calls `print` for each picture until it
    /// returns false. Returns the number of pictures that could not be read; each is named on standard error.
    ///
    /// # Errors
    /// If captioning or `print` fails.
    pub fn caption_all(&self, mut print: impl FnMut(&Captioned) -> Result<bool>) -> Result<usize> {
        let rows = &self.inputs.rows;
        let bar = ProgressBar::new(rows.len() as u64)
            .with_style(ProgressStyle::with_template("captions {wide_bar} {pos}/{len}, {eta} left")?);
        let mut skipped = 0;
        for rows in rows.chunks(self.options.batch_size) {
            let (pictures, errors) = self.batch(rows)?;
            skipped += errors.len();
            let reads_on = bar.suspend(|| -> Result<bool> {
                errors.iter().for_each(|error| _ = say_error(format_args!("skipped: {error}")));
                pictures.iter().try_fold(true, |reads_on, picture| Ok(reads_on && print(picture)?))
            })?;
            bar.inc(rows.len() as u64);
            if !reads_on {
                return Ok(skipped);
            }
        }
        bar.finish_and_clear();
        captioning::warn_if_refused(self.model.as_ref());
        Ok(skipped)
    }

    /// The captions of some rows, and the reasons why other rows have none.
    fn batch(&self, rows: &[usize]) -> Result<(Vec<Captioned>, Vec<String>)> {
        let started = Instant::now();
        let batch = self.loader.load(rows)?;
        let errors = batch.skipped().iter().map(|error| self.inputs.reason(error)).collect();
        if batch.rows().is_empty() {
            return Ok((Vec::new(), errors));
        }
        let pixel_values = batch.pixel_values(self.model.device())?;
        let features = self.model.encode_images(&pixel_values, &ForwardContext::inference())?;
        let resolve = |prompt| resolve(self.options, &self.pretrained, &self.bad_words, prompt);
        let captions = self.prompts.captions(
            batch.rows(),
            self.model.as_ref(),
            &features,
            &resolve,
            self.draft.as_ref(),
        )?;
        let seconds = started.elapsed().as_secs_f64() / batch.rows().len() as f64;
        let pictures = batch.rows().iter().zip(captions);
        let pictures = pictures.map(|(row, captions)| self.captioned(*row, captions, seconds));
        Ok((pictures.collect::<Result<_>>()?, errors))
    }

    fn captioned(&self, row: usize, captions: Vec<Caption>, seconds: f64) -> Result<Captioned> {
        let (prompt, tokens) = self.prompts.of_row(row).unzip();
        let decode = |ids: &[u32]| self.pretrained.tokenizer.decode(ids, true);
        // The ids of an answer do not begin with its question.
        let question = match self.pretrained.checkpoint.architecture().needs_prompt {
            true => tokens.unwrap_or_else(|| self.prompts.longest()),
            false => 0,
        };
        let text = |Caption { ids, score }| {
            let answer = tokens.map(|tokens| decode(&ids[tokens..])).transpose()?;
            Ok(TextCaption { text: decode(&ids[question..])?, answer, ids, score })
        };
        let captions = captions.into_iter().map(text).collect::<Result<_>>()?;
        Ok(Captioned { row, prompt: prompt.map(str::to_owned), captions, seconds })
    }
}

fn prompts(options: &options::Caption, inputs: &Inputs, pretrained: &Pretrained) -> Result<Prompts> {
    let (tokenizer, start) = (&pretrained.tokenizer, pretrained.checkpoint.tokens().start_token);
    match &options.prompt_column {
        Some(_) => Prompts::of_rows(&inputs.source, &inputs.rows, tokenizer, start),
        None => Prompts::one(options.decoding.prompt.as_deref(), tokenizer, start),
    }
}

/// The decoding options for a prompt of this many tokens. If an encoder reads the question, the decoder's text,
/// whose length the checkpoint may limit, begins with the start token alone.
fn resolve(
    options: &options::Caption,
    pretrained: &Pretrained,
    bad_words: &[Vec<u32>],
    prompt: usize,
) -> Result<GenerationConfig> {
    let prompt = if pretrained.checkpoint.architecture().needs_prompt { 1 } else { prompt };
    let config = options.decoding.resolve(pretrained.checkpoint.generation(), prompt, bad_words.to_vec());
    config.map_err(anyhow::Error::msg)
}

fn model(options: &options::Caption, pretrained: &Pretrained) -> Result<Box<dyn CaptionModel>> {
    let dtype = if options.dtype == Storage::Bf16 { DType::BF16 } else { DType::F32 };
    let device = options.device.open()?;
    let decoding_graphs = !options.no_cuda_graph;
    let load_options = LoadOptions { device, dtype, decoding_graphs, ..LoadOptions::default() };
    let load = |builder: &mut dyn LayerBuilder| pretrained.checkpoint.load_model(builder, &load_options);
    match &options.adapter {
        None if options.dtype == Storage::Int8 => Ok(load(&mut Int8Builder)?),
        None => Ok(load(&mut FrozenBuilder)?),
        Some(location) => {
            let mut lora = LoraBuilder::from_pretrained(open::adapter_for(pretrained, location)?)?;
            let model = load(&mut lora)?;
            // finish() copies the adapter's files to the weights, which the model's layers share.
            lora.finish()?;
            Ok(model)
        }
    }
}

/// The token ids of words to exclude. Words without tokens cannot be generated anyway.
fn bad_words(words: &[String], tokenizer: &CaptionTokenizer) -> Result<Vec<Vec<u32>>> {
    let mut all = Vec::new();
    for words in words {
        let mut ids = tokenizer.encode(words.trim())?;
        if ids.last() == Some(&tokenizer.sep_id()) {
            ids.pop();
        }
        // Without the start token.
        if let Some(ids @ [_, ..]) = ids.get(1..) {
            all.push(ids.to_vec());
        }
    }
    Ok(all)
}
