use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// The label of a position that no loss is taken of: PyTorch's and transformers' `ignore_index`.
pub const IGNORE_INDEX: i64 = -100;

/// To which length the captions of a batch are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// The longest caption of the batch: no work is wasted.
    #[default]
    Longest,
    /// This many tokens, whatever the captions are.
    MaxLength(usize),
}

/// Captions of a batch, ready for the model. Plain numbers, so that it can cross threads; the tensors are
/// made where they are used.
///
/// Pictures are not part of it: their features are usually computed once, and only looked up by
/// [`rows`](Self::rows) after that. Where they are not, a [`PictureLoader`](crate::PictureLoader) gives the
/// pixel values of the same rows.
///
/// ```
/// use caption_data::{CaptionBatch, IGNORE_INDEX, Padding};
/// use candle_core::Device;
///
/// let captions = vec![vec![101, 1037, 102], vec![101, 1037, 3899, 4937, 102]];
/// let batch = CaptionBatch::new(vec![7, 3], captions, 0, Padding::Longest)?;
/// assert_eq!(batch.input_ids(&Device::Cpu)?.to_vec2::<u32>()?[0], [101, 1037, 102, 0, 0]);
/// let labels = batch.labels(&Device::Cpu)?.to_vec2::<i64>()?;
/// assert_eq!(labels[0], [101, 1037, 102, IGNORE_INDEX, IGNORE_INDEX]);
/// assert_eq!(batch.target_tokens(), 2 + 4);
/// # Ok::<(), caption_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionBatch {
    rows: Vec<usize>,
    ids: Vec<Vec<u32>>,
    /// How many ids at the beginning of each caption are its prompt.
    prompts: Vec<usize>,
    length: usize,
    pad_id: u32,
}

impl CaptionBatch {
    /// Captions as ids without padding, and the rows of the dataset that they belong to.
    ///
    /// # Errors
    /// If there are not as many captions as rows, or if a caption has more tokens than
    /// [`Padding::MaxLength`].
    pub fn new(rows: Vec<usize>, ids: Vec<Vec<u32>>, pad_id: u32, padding: Padding) -> Result<Self> {
        if rows.len() != ids.len() {
            return Err(Error::BatchLengths { rows: rows.len(), captions: ids.len() });
        }
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        let length = match padding {
            Padding::Longest => longest,
            Padding::MaxLength(max) if longest <= max => max,
            Padding::MaxLength(max) => return Err(Error::CaptionTooLong { tokens: longest, max }),
        };
        let prompts = vec![0; ids.len()];
        Ok(Self { rows, ids, prompts, length, pad_id })
    }

    /// The same captions, of which so many ids at the beginning are a prompt, `[CLS]` included: they are given to the model
    /// and are no targets. 0 for a caption without a prompt.
    ///
    /// # Errors
    /// If there are not as many prompts as captions, or if a caption is shorter than its prompt.
    pub fn with_prompts(self, prompts: Vec<usize>) -> Result<Self> {
        let (captions, rows) = (prompts.len(), self.rows.len());
        if captions != rows {
            return Err(Error::BatchLengths { rows, captions });
        }
        let too_long = |(ids, prompt): &(&Vec<u32>, &usize)| **prompt > ids.len();
        if let Some((ids, prompt)) = self.ids.iter().zip(&prompts).find(too_long) {
            return Err(Error::PromptTooLong { tokens: *prompt, caption: ids.len() });
        }
        Ok(Self { prompts, ..self })
    }

    /// The captions of several batches of one dataset, in their order, padded to the longest of these batches; none of no
    /// batches.
    pub fn concat<'a>(batches: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut batches = batches.into_iter();
        let mut all = batches.next()?.clone();
        for batch in batches {
            all.rows.extend_from_slice(&batch.rows);
            all.ids.extend_from_slice(&batch.ids);
            all.prompts.extend_from_slice(&batch.prompts);
            all.length = all.length.max(batch.length);
        }
        Some(all)
    }

    /// Rows of the dataset, in the batch's order.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The ids of each caption, without padding.
    pub fn ids(&self) -> &[Vec<u32>] {
        &self.ids
    }

    /// How many captions there are.
    pub fn batch_size(&self) -> usize {
        self.ids.len()
    }

    /// How many positions each caption has with its padding.
    pub fn seq_len(&self) -> usize {
        self.length
    }

    /// How many tokens the model is taught to predict: all of every caption but its first or its prompt, `[SEP]` included.
    pub fn target_tokens(&self) -> usize {
        let targets = |(ids, prompt): (&Vec<u32>, &usize)| ids.len().saturating_sub((*prompt).max(1));
        self.ids.iter().zip(&self.prompts).map(targets).sum()
    }

    /// Token ids, u32 of shape `(batch, length)`; short captions are filled up at their end.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn input_ids(&self, device: &Device) -> Result<Tensor> {
        self.tensor(self.pad_id, |id, _| id, device)
    }

    /// What the model is taught, i64 of shape `(batch, length)`: the ids, [`IGNORE_INDEX`] on prompts and padding.
    /// `[SEP]` is a target like any other, so that the model learns to stop. They stand at their tokens' own
    /// positions: the loss shifts them, once.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn labels(&self, device: &Device) -> Result<Tensor> {
        let label = |id, is_prompt| if is_prompt { IGNORE_INDEX } else { i64::from(id) };
        self.tensor(IGNORE_INDEX, label, device)
    }

    /// One on tokens, zero on padding, u8 of shape `(batch, length)`.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn attention_mask(&self, device: &Device) -> Result<Tensor> {
        self.tensor(0, |_, _| 1u8, device)
    }

    fn tensor<T: candle_core::WithDType>(
        &self,
        padding: T,
        value: impl Fn(u32, bool) -> T,
        device: &Device,
    ) -> Result<Tensor> {
        let mut values = Vec::with_capacity(self.ids.len() * self.length);
        for (ids, prompt) in self.ids.iter().zip(&self.prompts) {
            values.extend(ids.iter().enumerate().map(|(at, id)| value(*id, at < *prompt)));
            values.extend(std::iter::repeat_n(padding, self.length - ids.len()));
        }
        Ok(Tensor::from_vec(values, (self.ids.len(), self.length), device)?)
    }
}
