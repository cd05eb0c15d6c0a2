use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use caption_data::{CaptionSource, CaptionTokenizer, ImageProcessor, Split, TokenizedCaptions, split};
use git_model::Checkpoint;

use crate::cli::Finetune;
use crate::open::{self, Pretrained};

/// A pre-trained model's companions, captioned pictures, and their split.
pub struct Inputs {
    /// The name that the model was asked for by.
    pub name: String,
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// Captions to ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Pictures to pixel values.
    pub processor: ImageProcessor,
    /// The captioned pictures.
    pub source: Arc<dyn CaptionSource>,
    /// Rows for training, validation and test.
    pub rows: Split,
    /// The captions as ids.
    pub captions: Arc<TokenizedCaptions>,
}

impl Inputs {
    /// Opens the checkpoint and the dataset, splits the rows and tokenizes the captions. The checkpoint is returned beside
    /// the rest, as it is closed when the model is built.
    ///
    /// # Errors
    /// If something is not there, damaged, or does not fit the rest.
    pub fn open(options: &Finetune) -> Result<(Checkpoint, Self)> {
        let data = &options.data;
        let Pretrained { name, dir, checkpoint, tokenizer, processor } = open::pretrained(&data.model)?;
        let source = open::dataset(&data.dataset, Some(data.subset))?;
        let shares = [data.split.train, data.split.validation, data.split.test];
        let rows = split(source.len(), shares, data.split_seed)?;
        let captions = Arc::new(TokenizedCaptions::new(&source, &tokenizer)?);
        Ok((checkpoint, Self { name, dir, tokenizer, processor, source, rows, captions }))
    }
}
