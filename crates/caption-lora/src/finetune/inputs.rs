use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use caption_data::{
    BadRow, CaptionSource, CaptionTokenizer, ImageProcessor, Split, TokenizedCaptions, is_large, sample_rows,
};
use caption_model::CaptionCheckpoint;
use trainer_core::WindowedOrder;

use super::rows::{Rows, check_words};
use crate::distributed::Team;
use crate::folders;
use crate::hub::Location;
use crate::open::{self, Pretrained};
use crate::options::Finetune;
use crate::row_order::RowOrder;

/// The inputs of a run: the pre-trained model's tokenizer and processor, the captioned pictures, and their
/// split.
pub struct Inputs {
    /// The model's requested name, without a revision.
    pub name: String,
    /// The model's commit, if it is from the hub.
    pub commit: Option<String>,
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// Converts captions to token ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Converts pictures to pixel values.
    pub processor: ImageProcessor,
    /// The captioned pictures.
    pub source: Arc<dyn CaptionSource>,
    /// The dataset's commit, if it is from the hub.
    pub source_commit: Option<String>,
    /// The commits of the datasets that are named as validation and test rows, if they are from the hub.
    pub held_out_commits: [Option<String>; 2],
    /// A fingerprint for each row's picture; equal for rows with the same picture. Empty if only a sample of the rows was
    /// checked.
    pub pictures: Vec<u128>,
    /// Rows for training, validation and test.
    pub rows: Split,
    /// Unusable rows, which are left out.
    pub skipped: Vec<BadRow>,
    /// The number of rows beyond --subset, which are left out.
    pub beyond: usize,
    /// The windows in which training rows are shuffled; `None` for all of them at once.
    pub windows: Option<Arc<WindowedOrder>>,
    /// The captions as token ids.
    pub captions: Arc<TokenizedCaptions>,
}

impl Inputs {
    /// The training rows, in the order of each epoch.
    pub fn training_order(&self, options: &Finetune) -> RowOrder {
        let order = RowOrder::fixed(self.rows.train.as_slice());
        match options.shuffle() {
            Some(seed) => order.shuffled(seed, self.windows.clone()),
            None => order,
        }
    }

    /// Opens the checkpoint and the dataset, splits the rows and tokenizes the captions. The checkpoint is
    /// returned separately, as it is closed when the model is built.
    ///
    /// # Errors
    /// If something is missing or damaged, or does not fit the rest.
    pub fn open(options: &Finetune) -> Result<(Box<dyn CaptionCheckpoint>, Self)> {
        Self::open_in(options, &Team::alone())
    }

    /// As [`open`](Self::open), for one of the processes of a job, which divide the checks of the rows.
    pub(super) fn open_in(options: &Finetune, team: &Team) -> Result<(Box<dyn CaptionCheckpoint>, Self)> {
        let data = &options.data;
        if let Location::Local(dir) = &data.model {
            folders::check_is_checkpoint(dir, "--init-adapter")?;
        }
        let Pretrained { name, commit, dir, checkpoint, tokenizer, processor } =
            team.open([&data.model], || open::pretrained(&data.model))?;
        if checkpoint.architecture().needs_prompt && data.prompt_column.is_none() {
            bail!(
                "{name} answers questions about pictures: name the column of questions with --prompt-column, and that of \
                 answers with --caption-column"
            );
        }
        let Rows {
            source,
            commit: source_commit,
            held_out_commits,
            pictures,
            split: rows,
            skipped,
            beyond,
            windows,
        } = Rows::open(data, &processor, team)?;
        let captions = if is_large(source.as_ref()) {
            let sample = sample_rows(source.as_ref());
            TokenizedCaptions::on_demand(Arc::clone(&source), tokenizer.clone(), &sample)?
        } else {
            TokenizedCaptions::new(&source, &tokenizer)?
        };
        let captions = Arc::new(captions);
        check_words(&name, captions.cuts())?;
        let inputs = Self {
            name,
            commit,
            dir,
            tokenizer,
            processor,
            source,
            source_commit,
            held_out_commits,
            pictures,
            rows,
            skipped,
            beyond,
            windows,
            captions,
        };
        Ok((checkpoint, inputs))
    }
}
