#![doc = include_str!("../README.md")]

mod error;
mod open;

use std::path::Path;

use caption_data::{CaptionTokenizer, ImageDecoder, ImageProcessor};
use caption_model::{CaptionModel, LoadOptions};
use train_ops::{ForwardContext, FrozenBuilder, enter};

pub use caption_data::RgbImage;
pub use caption_model::GenerationConfig;
pub use error::{Error, Result};
pub use open::{open_checkpoint, start_token};

/// A model with its tokenizer and image processor.
#[derive(Debug)]
pub struct Captioner {
    /// How captions are decoded; greedy by default. If this gives several captions for a picture, the first
    /// is used.
    pub config: GenerationConfig,
    model: Box<dyn CaptionModel>,
    tokenizer: CaptionTokenizer,
    processor: ImageProcessor,
}

impl Captioner {
    /// Opens the checkpoint in the folder `dir`, on the CPU in f32.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the files do not belong to one model of GIT or BLIP.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let checkpoint = open_checkpoint(dir)?;
        let model = checkpoint.load_model(&mut FrozenBuilder, &LoadOptions::default())?;
        let processor = ImageProcessor::from_pretrained(dir)?;
        Self::of(model, CaptionTokenizer::from_pretrained(dir)?, processor)
    }

    /// From a model, on any device and with or without adapters, its tokenizer and its image processor.
    ///
    /// # Errors
    /// If tokenizer or image processor do not fit the model.
    pub fn new(
        model: impl CaptionModel + 'static,
        tokenizer: CaptionTokenizer,
        processor: ImageProcessor,
    ) -> Result<Self> {
        Self::of(Box::new(model), tokenizer, processor)
    }

    fn of(
        model: Box<dyn CaptionModel>,
        tokenizer: CaptionTokenizer,
        processor: ImageProcessor,
    ) -> Result<Self> {
        let (tokens, vocab_size) = (tokenizer.vocab_size(), model.tokens().vocab_size);
        if tokens > vocab_size {
            return Err(Error::Vocabulary { tokenizer: tokens, model: vocab_size });
        }
        let size = model.caption_config().image_size();
        match processor.output_size() {
            Some(output) if output != (size, size) => {
                Err(Error::ImageSize { processor: output, model: size })
            }
            _ => Ok(Self { config: GenerationConfig::default(), model, tokenizer, processor }),
        }
    }

    /// The caption of a picture file.
    ///
    /// # Errors
    /// If the file is not a picture, or the options of [`config`](Self::config) do not fit the model.
    pub fn caption(&self, picture: impl AsRef<Path>) -> Result<String> {
        Ok(self.captions(&[picture])?.swap_remove(0))
    }

    /// The captions of picture files, in one batch.
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    pub fn captions(&self, pictures: &[impl AsRef<Path>]) -> Result<Vec<String>> {
        let images = pictures.iter().map(|path| read(path.as_ref())).collect::<Result<Vec<_>>>()?;
        self.caption_images(&images)
    }

    /// The captions of pictures in memory, in one batch. For a model for questions this is an error: see
    /// [`answer`](Self::answer).
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    pub fn caption_images(&self, images: &[RgbImage]) -> Result<Vec<String>> {
        self.generate(images, None)
    }

    /// The model's continuation of a prompt about a picture: BLIP for questions answers it, other models continue it. The text does
    /// not repeat the prompt.
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    pub fn answer(&self, picture: impl AsRef<Path>, prompt: &str) -> Result<String> {
        Ok(self.answer_images(&[read(picture.as_ref())?], prompt)?.swap_remove(0))
    }

    /// As [`answer`](Self::answer), for pictures in memory, in one batch.
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    pub fn answer_images(&self, images: &[RgbImage], prompt: &str) -> Result<Vec<String>> {
        let mut prompt = self.tokenizer.encode_prompt(prompt)?.ids;
        if let Some(first) = prompt.first_mut() {
            *first = self.model.tokens().start_token;
        }
        self.generate(images, Some(&prompt))
    }

    /// The texts after the prompt; `None` is a prompt of the start token alone.
    fn generate(&self, images: &[RgbImage], prompt: Option<&[u32]>) -> Result<Vec<String>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels = self.processor.pixel_values(images, self.model.device())?;
        // One pass, so that it does not use both old and new adapters if another thread replaces them.
        let pass = ForwardContext::inference();
        let _entered = enter(pass.clone());
        let features = self.model.encode_images(&pixels, &pass)?;
        let captions = self.model.generate(&features, prompt, &self.config)?;
        let first = captions.iter().step_by(self.config.num_return_sequences);
        let given = prompt.map_or(1, <[u32]>::len);
        first.map(|caption| Ok(self.tokenizer.decode(&caption.ids[given..], true)?)).collect()
    }
}

fn read(path: &Path) -> Result<RgbImage> {
    let file = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let image = ImageDecoder::default().decode(&file);
    image.map_err(|source| Error::Picture { path: path.to_owned(), source: source.into() })
}
