use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use caption_data::{BadRow, CaptionSource, CaptionTokenizer, ImageProcessor, Split, TokenizedCaptions};
use git_model::Checkpoint;

use super::rows::Rows;
use crate::cli::Finetune;
use crate::open::{self, Pretrained};

/// A pre-trained model's companions, captioned pictures, and their split.
pub struct Inputs {
    /// The name that the model was asked for by, without a revision.
    pub name: String,
    /// The commit of the model, where it came from the hub.
    pub commit: Option<String>,
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// Captions to ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Pictures to pixel values.
    pub processor: ImageProcessor,
    /// The captioned pictures.
    pub source: Arc<dyn CaptionSource>,
    /// The commit of the dataset, where it came from the hub.
    pub source_commit: Option<String>,
    /// The same number for rows of the dataset with the same picture.
    pub pictures: Vec<u128>,
    /// Rows for training, validation and test.
    pub rows: Split,
    /// Rows that cannot be used and are left out.
    pub skipped: Vec<BadRow>,
    /// How many rows are left out as they come after the last that --subset uses.
    pub beyond: usize,
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
        let Pretrained { name, commit, dir, checkpoint, tokenizer, processor } =
            open::pretrained(&data.model)?;
        let Rows { source, commit: source_commit, pictures, split: rows, skipped, beyond } =
            Rows::open(data, &processor)?;
        let captions = Arc::new(TokenizedCaptions::new(&source, &tokenizer)?);
        let inputs = Self {
            name,
            commit,
            dir,
            tokenizer,
            processor,
            source,
            source_commit,
            pictures,
            rows,
            skipped,
            beyond,
            captions,
        };
        Ok((checkpoint, inputs))
    }
}
