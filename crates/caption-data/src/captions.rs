use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// The label of a position that the loss ignores: the `ignore_index` of PyTorch and transformers.
pub const IGNORE_INDEX: i64 = -100;

/// The length that the captions of a batch are padded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// The longest caption of the batch, so that padding is as short as possible.
    #[default]
    Longest,
    /// This many tokens, whatever the lengths of the captions.
    MaxLength(usize),
}

/// The captions of a batch, ready for the model. They are stored as numbers, so that a batch can move between
/// threads; tensors are made on request.
///
/// A batch holds no pictures: their features are usually computed once and then looked up by
/// [`rows`](Self::rows). Without such a cache, a [`PictureLoader`](crate::PictureLoader) loads the pixel values
/// of the same rows.
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
    /// The length of each caption's prompt, in ids at its beginning.
    prompts: Vec<usize>,
    length: usize,
    pad_id: u32,
}

impl CaptionBatch {
    /// A batch of captions, as ids without padding, with the dataset row that each belongs to.
    ///
    /// # Errors
    /// If the numbers of captions and rows differ, or if a caption has more tokens than
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

    /// The same captions with prompts. `prompts[i]` is the number of ids at the beginning of caption `i` that
    /// belong to its prompt, including `[CLS]`; it is 0 for a caption without a prompt. The model reads these
    /// ids, but they are not targets.
    ///
    /// # Errors
    /// If the numbers of prompts and captions differ, or if a caption is shorter than its prompt.
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

    /// Joins batches of one dataset in their order, padded to the longest of them. `None` if there are no
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

    /// The rows of the dataset, in the batch's order.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The ids of each caption, without padding.
    pub fn ids(&self) -> &[Vec<u32>] {
        &self.ids
    }

    /// The number of captions.
    pub fn batch_size(&self) -> usize {
        self.ids.len()
    }

    /// The number of positions of each caption, padding included.
    pub fn seq_len(&self) -> usize {
        self.length
    }

    /// The number of targets: every token of a caption, `[SEP]` included, except its first or its prompt.
    pub fn target_tokens(&self) -> usize {
        let targets = |(ids, prompt): (&Vec<u32>, &usize)| ids.len().saturating_sub((*prompt).max(1));
        self.ids.iter().zip(&self.prompts).map(targets).sum()
    }

    /// Token ids, u32 of shape `(batch, length)`; short captions are padded at their end.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn input_ids(&self, device: &Device) -> Result<Tensor> {
        self.tensor(self.pad_id, |id, _| id, device)
    }

    /// The targets, i64 of shape `(batch, length)`: the ids, with [`IGNORE_INDEX`] on prompts and padding.
    /// `[SEP]` is a target like any other, so that the model learns to stop. Labels are not shifted: each is
    /// at its own token's position, and the loss shifts them.
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
