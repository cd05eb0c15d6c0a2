use candle_core::{Device, Tensor};
use train_ops::{KeyLengths, NO_TARGET, host_numbers};

use crate::labels::require_shape;
use crate::{Result, ShiftedLabels};

/// The text of a training batch, as a pass takes it from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBatch {
    /// The captions; or for a model for questions, the questions and then their answers.
    pub texts: Vec<TextIds>,
    /// The number of tokens of each row of the first text without padding. Empty where padding needs no mask, as behind the tokens of a
    /// causal decoder.
    pub lengths: Vec<usize>,
    /// The labels of the last text, `(batch, length)`, as those of [`CaptionModel::loss`](crate::CaptionModel::loss).
    pub labels: Vec<Vec<i64>>,
}

/// Token ids `(batch, length)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextIds {
    /// All rows, one after the other.
    pub ids: Vec<u32>,
    /// Length of a row.
    pub length: usize,
}

impl TextBatch {
    /// The batch of a model that reads captions alone, from token ids `(batch, length)` on any device.
    ///
    /// # Errors
    /// If the labels do not have the shape of `input_ids`.
    pub fn captions(input_ids: &Tensor, labels: &[Vec<i64>]) -> Result<Self> {
        let (batch, length) = input_ids.dims2()?;
        require_shape(labels, batch, length)?;
        let ids = TextIds { ids: input_ids.flatten_all()?.to_vec1()?, length };
        Ok(Self { texts: vec![ids], lengths: Vec::new(), labels: labels.to_vec() })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The texts on a device, `(batch, length)` each. They are [`host_numbers`], as are the other numbers of the batch.
    ///
    /// # Errors
    /// If the device has no memory.
    pub fn tensors(&self, device: &Device) -> Result<Vec<Tensor>> {
        let rows = self.rows();
        let tensor = |text: &TextIds| Ok(host_numbers(&text.ids, device)?.reshape((rows, text.length))?);
        self.texts.iter().map(tensor).collect()
    }

    /// The lengths for attention to the first text.
    pub fn key_lengths(&self) -> Option<KeyLengths> {
        (!self.lengths.is_empty()).then(|| KeyLengths::new(self.lengths.clone()))
    }

    /// The targets of the last text.
    ///
    /// # Errors
    /// If the labels do not have its shape.
    pub fn shifted_labels(&self) -> Result<ShiftedLabels> {
        let length = self.texts.last().map_or(0, |text| text.length);
        ShiftedLabels::of_rows(&self.labels, self.rows(), length)
    }

    /// All numbers that a pass takes from the host, in this order: the texts, the lengths, and the positions and ids of the targets, of
    /// which there are `targets`. `labels` are the [`shifted_labels`](Self::shifted_labels) of the batch. Targets beyond these are at
    /// position 0 and are [`NO_TARGET`](train_ops::NO_TARGET).
    pub fn numbers(&self, labels: ShiftedLabels, targets: usize) -> Vec<u32> {
        let ShiftedLabels { mut positions, targets: mut ids, .. } = labels;
        positions.resize(targets, 0);
        ids.resize(targets, NO_TARGET);
        let texts = self.texts.iter().flat_map(|text| text.ids.iter().copied());
        let lengths = self.lengths.iter().map(|length| *length as u32);
        texts.chain(lengths).chain(positions).chain(ids).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ids_lengths_positions_and_targets() {
        let batch = TextBatch {
            texts: vec![
                TextIds { ids: vec![1, 2, 3, 4], length: 2 },
                TextIds { ids: vec![5, 6, 7, 8], length: 2 },
            ],
            lengths: vec![2, 1],
            labels: vec![vec![-100, 6], vec![-100, -100]],
        };
        let none = u32::MAX;
        let numbers = batch.numbers(batch.shifted_labels().unwrap(), 3);
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 0, 0, 0, 6, none, none]);
        let tensors = batch.tensors(&Device::Cpu).unwrap();
        assert_eq!(tensors[1].to_vec2::<u32>().unwrap(), [[5, 6], [7, 8]]);
        assert!(TextBatch { labels: vec![vec![1]], ..batch }.shifted_labels().is_err());
    }
}
