use twox_hash::XxHash3_64;

use crate::{CaptionBatch, CaptionSource, CaptionTokenizer, Error, Padding, Result};

/// Every caption of a dataset as token ids, from its start token to `[SEP]`, after the row's prompt if it has one.
///
/// Captions are small and are read in every epoch, so they are tokenized once and kept. A row can have
/// several, the references of its picture: training [draws](Self::drawn) one of them in each epoch,
/// evaluation uses [all](Self::all).
///
/// The model is given the prompt and should generate the caption, as GIT's checkpoints for questions do: the
/// ids are `[CLS] prompt caption [SEP]`, and the labels of `[CLS] prompt` are
/// [`IGNORE_INDEX`](crate::IGNORE_INDEX).
#[derive(Debug, Clone)]
pub struct TokenizedCaptions {
    rows: Vec<Row>,
    pad_id: u32,
    cuts: TokenCuts,
}

#[derive(Debug, Clone)]
struct Row {
    /// `[CLS]` and the prompt; `None` without a prompt.
    prompt: Option<Vec<u32>>,
    references: Vec<Reference>,
}

/// A caption after its prompt.
#[derive(Debug, Clone)]
struct Reference {
    ids: Vec<u32>,
    /// The length of the prompt in ids, `[CLS]` included; 0 without a prompt.
    prompt: usize,
}

/// Counts the texts that the model does not see in full: they have too many tokens, or words that are not in
/// the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCuts {
    /// The number of all captions.
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
        Ok(Self { rows: rows.collect::<Result<_>>()?, pad_id: tokenizer.pad_id(), cuts })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The ids of a row's first caption after its prompt, without padding; `None` if there is no such row.
    pub fn ids(&self, row: usize) -> Option<&[u32]> {
        self.rows.get(row)?.references.first().map(|reference| reference.ids.as_slice())
    }

    /// `[CLS]` and the ids of a row's prompt, for the model to continue; `None` without a prompt, or if there
    /// is no such row.
    pub fn prompt(&self, row: usize) -> Option<&[u32]> {
        self.rows.get(row)?.prompt.as_deref()
    }

    /// The number of captions of a row; 0 if there is no such row.
    pub fn references(&self, row: usize) -> usize {
        self.rows.get(row).map_or(0, |row| row.references.len())
    }

    /// The number of tokens of the longest caption among some rows, prompts included.
    pub fn longest(&self, rows: &[usize]) -> usize {
        let references = rows.iter().filter_map(|row| self.rows.get(*row)).flat_map(|row| &row.references);
        references.map(|reference| reference.ids.len()).max().unwrap_or(0)
    }

    /// Counts the texts that the model does not see in full.
    pub fn cuts(&self) -> TokenCuts {
        self.cuts
    }

    /// The index of the row's caption that is trained on in an epoch. It depends on the arguments alone, so a
    /// resumed run draws the same captions as an uninterrupted one. All captions are equally likely.
    pub fn drawn(&self, row: usize, seed: u64, epoch: usize) -> usize {
        let count = self.references(row) as u128;
        let bytes = [(epoch as u64).to_le_bytes(), (row as u64).to_le_bytes()].concat();
        let random = u128::from(XxHash3_64::oneshot_with_seed(seed, &bytes));
        // The high half of the product: a number below the count, uniform but for a bias of count / 2^64.
        ((random * count) >> 64) as usize
    }

    /// All captions of some rows, each as its row and its index in the row.
    pub fn all(&self, rows: &[usize]) -> Vec<(usize, usize)> {
        rows.iter().flat_map(|row| (0..self.references(*row)).map(|caption| (*row, caption))).collect()
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
    /// If there is no such row or caption, or if a caption has more tokens than [`Padding::MaxLength`].
    pub fn batch_of(&self, captions: &[(usize, usize)], padding: Padding) -> Result<CaptionBatch> {
        let references: Vec<&Reference> = captions
            .iter()
            .map(|&(row, caption)| {
                let missing = || Error::RowOutOfRange {
                    dataset: "the tokenized dataset".to_owned(),
                    row,
                    len: self.rows.len(),
                };
                self.rows.get(row).and_then(|row| row.references.get(caption)).ok_or_else(missing)
            })
            .collect::<Result<_>>()?;
        let rows = captions.iter().map(|(row, _)| *row).collect();
        let ids = references.iter().map(|reference| reference.ids.clone()).collect();
        let prompts = references.iter().map(|reference| reference.prompt).collect();
        CaptionBatch::new(rows, ids, self.pad_id, padding)?.with_prompts(prompts)
    }
}

impl Row {
    fn read(
        source: &dyn CaptionSource,
        row: usize,
        tokenizer: &CaptionTokenizer,
        cuts: &mut TokenCuts,
    ) -> Result<Self> {
        let prompt = source.prompt(row)?.map(|prompt| tokenizer.encode_prompt(&prompt)).transpose()?;
        let mut prompt_is_cut = prompt.as_ref().is_some_and(|prompt| prompt.is_cut);
        let prompt = prompt.map(|prompt| prompt.ids);
        let mut references = Vec::new();
        for caption in source.captions(row)? {
            let caption = tokenizer.encode_text(&caption)?;
            cuts.captions += 1;
            cuts.cut_captions += usize::from(caption.is_cut);
            cuts.unknown_captions += usize::from(tokenizer.is_unknown(&caption.ids));
            references.push(match &prompt {
                None => Reference { ids: caption.ids, prompt: 0 },
                Some(prompt) => {
                    // Without the caption's own start token: there is one before the prompt.
                    let caption = caption.ids.get(1..).unwrap_or_default();
                    let room = tokenizer.max_length().map_or(usize::MAX, |max| max - caption.len());
                    prompt_is_cut |= prompt.len() > room;
                    let prompt = &prompt[..prompt.len().min(room)];
                    Reference { ids: [prompt, caption].concat(), prompt: prompt.len() }
                }
            });
        }
        cuts.cut_prompts += usize::from(prompt_is_cut);
        Ok(Self { prompt, references })
    }
}
