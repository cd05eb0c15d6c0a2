mod row;

use std::sync::Arc;

use row::{Reference, Row};
use twox_hash::XxHash3_64;

use crate::{CaptionBatch, CaptionSource, CaptionTokenizer, Error, Padding, Result};

/// The captions of a dataset as token ids, from the start token to `[SEP]`, after the row's prompt if it has one.
///
/// They are tokenized once and kept, or, for a large dataset, [when they are needed](Self::on_demand). A row
/// can have several captions, the references of its picture: training [draws](Self::drawn) one of them in each
/// epoch, and evaluation uses [all](Self::all).
///
/// The model reads the prompt and learns to generate the caption, as in GIT's checkpoints for questions: the
/// ids are `[CLS] prompt caption [SEP]`, and the labels of `[CLS] prompt` are
/// [`IGNORE_INDEX`](crate::IGNORE_INDEX).
#[derive(Debug, Clone)]
pub struct TokenizedCaptions {
    rows: Rows,
    pad_id: u32,
    cuts: TokenCuts,
}

#[derive(Clone)]
enum Rows {
    Kept(Vec<Row>),
    OnDemand {
        source: Arc<dyn CaptionSource>,
        tokenizer: Box<CaptionTokenizer>,
        /// The number of tokens of the longest caption that was read.
        longest: usize,
    },
}

/// Counts the texts that do not reach the model completely: they have too many tokens, or words that are not in
/// the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCuts {
    /// The number of rows whose texts are counted.
    pub rows: usize,
    /// The number of their captions.
    pub captions: usize,
    /// Captions with too many tokens; they lose the last ones.
    pub cut_captions: usize,
    /// Prompts with too many tokens; they lose the last ones.
    pub cut_prompts: usize,
    /// The maximum number of tokens of a prompt and a caption together, `[CLS]` and `[SEP]` included.
    pub max_tokens: Option<usize>,
    /// Captions without any word of the vocabulary: all tokens are `[UNK]`, or there are none.
    pub unknown_captions: usize,
}

impl TokenizedCaptions {
    /// Tokenizes all captions and prompts of a dataset. If a prompt and a caption have too many tokens
    /// together, the prompt loses its last tokens, so that as much as possible of the caption is kept.
    ///
    /// # Errors
    /// If a caption cannot be read or is blank: the error names the row.
    pub fn new(source: &dyn CaptionSource, tokenizer: &CaptionTokenizer) -> Result<Self> {
        let mut cuts = TokenCuts { max_tokens: tokenizer.max_length(), ..TokenCuts::default() };
        let rows = (0..source.len()).map(|row| Row::read(source, row, tokenizer, &mut cuts));
        Ok(Self { rows: Rows::Kept(rows.collect::<Result<_>>()?), pad_id: tokenizer.pad_id(), cuts })
    }

    /// The captions and prompts of a dataset, tokenized each time that they are needed. Nothing is kept, and an
    /// error in a row is returned by the method that reads the row. The ids are those of [`new`](Self::new).
    /// Only the captions of the rows `sample` are read now, for [`cuts`](Self::cuts) and
    /// [`longest`](Self::longest).
    ///
    /// # Errors
    /// If a caption of `sample` cannot be read or is blank: the error names the row.
    pub fn on_demand(
        source: Arc<dyn CaptionSource>,
        tokenizer: CaptionTokenizer,
        sample: &[usize],
    ) -> Result<Self> {
        let mut cuts = TokenCuts { max_tokens: tokenizer.max_length(), ..TokenCuts::default() };
        let mut longest = 0;
        for row in sample {
            longest = longest.max(Row::read(&source, *row, &tokenizer, &mut cuts)?.longest());
        }
        let pad_id = tokenizer.pad_id();
        Ok(Self { rows: Rows::OnDemand { source, tokenizer: Box::new(tokenizer), longest }, pad_id, cuts })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Kept(rows) => rows.len(),
            Rows::OnDemand { source, .. } => source.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of a row's first caption after its prompt, without padding.
    ///
    /// # Errors
    /// If there is no such row, or if it cannot be read.
    pub fn ids(&self, row: usize) -> Result<Vec<u32>> {
        Ok(self.reference(row, 0)?.ids)
    }

    /// `[CLS]` and the ids of a row's prompt, for the model to continue; `None` without a prompt.
    ///
    /// # Errors
    /// As [`ids`](Self::ids).
    pub fn prompt(&self, row: usize) -> Result<Option<Vec<u32>>> {
        match &self.rows {
            Rows::Kept(rows) => Ok(rows.get(row).ok_or_else(|| self.missing(row))?.prompt.clone()),
            Rows::OnDemand { source, tokenizer, .. } => {
                let prompt =
                    source.prompt(row)?.map(|prompt| tokenizer.encode_prompt(&prompt)).transpose()?;
                Ok(prompt.map(|prompt| prompt.ids))
            }
        }
    }

    /// The number of captions of a row.
    ///
    /// # Errors
    /// As [`ids`](Self::ids).
    pub fn references(&self, row: usize) -> Result<usize> {
        match &self.rows {
            Rows::Kept(rows) => Ok(rows.get(row).ok_or_else(|| self.missing(row))?.references.len()),
            Rows::OnDemand { source, .. } => Ok(source.captions(row)?.len()),
        }
    }

    /// The number of tokens of the longest caption among some rows, prompts included. If captions are read [on
    /// demand](Self::on_demand), that of the longest one in the sample.
    pub fn longest(&self, rows: &[usize]) -> usize {
        match &self.rows {
            Rows::Kept(kept) => {
                rows.iter().filter_map(|row| kept.get(*row)).map(Row::longest).max().unwrap_or(0)
            }
            Rows::OnDemand { longest, .. } => *longest,
        }
    }

    /// Counts the texts that do not reach the model completely; if captions are read [on
    /// demand](Self::on_demand), those of the sample.
    pub fn cuts(&self) -> TokenCuts {
        self.cuts
    }

    /// The index of the row's caption that is trained on in an epoch. It depends on the arguments alone, so a
    /// resumed run draws the same captions as an uninterrupted one. All captions are equally likely.
    ///
    /// # Errors
    /// As [`ids`](Self::ids).
    pub fn drawn(&self, row: usize, seed: u64, epoch: usize) -> Result<usize> {
        let count = self.references(row)? as u128;
        let bytes = [(epoch as u64).to_le_bytes(), (row as u64).to_le_bytes()].concat();
        let random = u128::from(XxHash3_64::oneshot_with_seed(seed, &bytes));
        // The high half of the product: a number below the count, uniform except for a bias of count / 2^64.
        Ok(((random * count) >> 64) as usize)
    }

    /// All captions of some rows, each as its row and its index in the row.
    ///
    /// # Errors
    /// As [`ids`](Self::ids).
    pub fn all(&self, rows: &[usize]) -> Result<Vec<(usize, usize)>> {
        let mut captions = Vec::with_capacity(rows.len());
        for &row in rows {
            captions.extend((0..self.references(row)?).map(|caption| (row, caption)));
        }
        Ok(captions)
    }

    /// The first captions of some rows, in their order.
    ///
    /// # Errors
    /// As [`batch_of`](Self::batch_of).
    pub fn batch(&self, rows: &[usize], padding: Padding) -> Result<CaptionBatch> {
        self.batch_of(&rows.iter().map(|row| (*row, 0)).collect::<Vec<_>>(), padding)
    }

    /// Some captions in the given order, each given as its row and its index in the row.
    ///
    /// # Errors
    /// If there is no such row or caption, if it cannot be read, or if a caption has more tokens than
    /// [`Padding::MaxLength`].
    pub fn batch_of(&self, captions: &[(usize, usize)], padding: Padding) -> Result<CaptionBatch> {
        let references = captions.iter().map(|(row, caption)| self.reference(*row, *caption));
        let references = references.collect::<Result<Vec<Reference>>>()?;
        let rows = captions.iter().map(|(row, _)| *row).collect();
        let prompts = references.iter().map(|reference| reference.prompt).collect();
        let ids = references.into_iter().map(|reference| reference.ids).collect();
        CaptionBatch::new(rows, ids, self.pad_id, padding)?.with_prompts(prompts)
    }

    fn reference(&self, row: usize, caption: usize) -> Result<Reference> {
        match &self.rows {
            Rows::Kept(rows) => {
                let reference = rows.get(row).and_then(|row| row.references.get(caption));
                reference.cloned().ok_or_else(|| self.missing(row))
            }
            Rows::OnDemand { source, tokenizer, .. } => {
                let prompt = self.prompt(row)?;
                let captions = source.captions(row)?;
                let caption = captions.get(caption).ok_or_else(|| self.missing(row))?;
                Ok(Reference::new(prompt.as_deref(), &tokenizer.encode_text(caption)?.ids, tokenizer))
            }
        }
    }

    fn missing(&self, row: usize) -> Error {
        Error::RowOutOfRange { dataset: "the tokenized dataset".to_owned(), row, len: self.len() }
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept(rows) => f.debug_tuple("Kept").field(rows).finish(),
            Self::OnDemand { source, longest, .. } => f
                .debug_struct("OnDemand")
                .field("source", &source.name())
                .field("longest", longest)
                .finish_non_exhaustive(),
        }
    }
}
