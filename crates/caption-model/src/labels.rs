use candle_core::{Device, Tensor};
use train_ops::{DeviceGraph, ForwardContext, NO_TARGET, host_numbers, sample_key, select_rows};

use crate::{Error, Result};

/// The targets of a batch of captions: the labels, shifted once.
///
/// The hidden state at position `t` predicts the label at `t + 1` of the same row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftedLabels {
    /// Positions in the flattened `(batch, text)` hidden states that have a target, and after them those of padding.
    pub positions: Vec<u32>,
    /// Their targets; [`NO_TARGET`] for padding.
    pub targets: Vec<u32>,
    /// Number of rows.
    batch: usize,
    /// Length of a row.
    length: usize,
    /// Targets without padding.
    count: usize,
}

/// A training pass on a GPU with graphs has a multiple of this number of targets, or as many as there are places, so that a run needs few
/// graphs.
const MULTIPLE: usize = 32;

/// The number of targets of a training pass over `batch` texts of `length` tokens with `targets` real ones, with those whose loss is 0,
/// on a device [with graphs](train_ops::DeviceGraph::is_supported).
pub fn padded_targets(batch: usize, length: usize, targets: usize) -> usize {
    targets.next_multiple_of(MULTIPLE).min(batch * length.saturating_sub(1))
}

impl ShiftedLabels {
    /// Shifts `labels` `(batch, text)`: the input ids, with -100 or any other negative number at positions without a
    /// target, such as padding.
    ///
    /// # Errors
    /// If the labels do not have the shape of `input_ids`, or one is [`NO_TARGET`].
    pub fn new(labels: &[Vec<i64>], input_ids: &Tensor) -> Result<Self> {
        let (batch, length) = input_ids.dims2()?;
        Self::of_rows(labels, batch, length)
    }

    /// As [`new`](Self::new), for input ids of this shape.
    pub(crate) fn of_rows(labels: &[Vec<i64>], batch: usize, length: usize) -> Result<Self> {
        require_shape(labels, batch, length)?;
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        for (row, labels) in labels.iter().enumerate() {
            for (position, next) in labels.iter().skip(1).enumerate() {
                // A negative label is not a target.
                if let Ok(target) = u32::try_from(*next) {
                    if target == NO_TARGET {
                        let vocabulary = NO_TARGET as usize;
                        return Err(train_ops::Error::Target { target, vocabulary }.into());
                    }
                    positions.push((row * length + position) as u32);
                    targets.push(target);
                }
            }
        }
        let count = targets.len();
        Ok(Self { positions, targets, batch, length, count })
    }

    /// The labels for a pass on this device. Where passes can be recorded, targets without an id are added, at position 0: a pass has
    /// the same sizes then, and so the same bits, whether it is recorded or not.
    pub fn padded_for(mut self, device: &Device) -> Self {
        if self.count > 0 && DeviceGraph::is_supported(device) {
            let padded = padded_targets(self.batch, self.length, self.count);
            self.positions.resize(padded, 0);
            self.targets.resize(padded, NO_TARGET);
        }
        self
    }

    /// The number of targets, without those that padding added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows of `hidden_states` `(batch, text, hidden)` at the positions, `(targets, hidden)`: logits are needed for these only.
    ///
    /// # Errors
    /// If the hidden states have another shape.
    pub fn select(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let (batch, length, width) = hidden_states.dims3()?;
        let positions = host_numbers(&self.positions, hidden_states.device())?;
        Ok(select_rows(&hidden_states.reshape((batch * length, width))?, &positions)?)
    }

    /// The context for the head, whose rows are single positions. Each row has its own key, a function of its
    /// sample's key and its position in the text, so that the dropout of an adapter on the head depends on
    /// neither batch nor padding.
    pub fn context(&self, ctx: &ForwardContext) -> ForwardContext {
        let Some(keys) = ctx.sample_keys() else { return ctx.clone() };
        let key = |position: &u32| {
            let (row, place) = (*position as usize / self.length, *position as usize % self.length);
            keys.get(row).map(|key| sample_key(*key, place as u64, 0))
        };
        // The earlier layers have refused a context with another number of keys.
        let keys: Vec<u64> = self.positions.iter().filter_map(key).collect();
        ForwardContext::training(keys)
    }
}

/// An error unless `labels` are `(batch, length)`.
pub(crate) fn require_shape(labels: &[Vec<i64>], batch: usize, length: usize) -> Result<()> {
    if labels.len() == batch && labels.iter().all(|row| row.len() == length) {
        return Ok(());
    }
    Err(Error::Shape {
        input: "labels",
        expected: format!("the shape of input_ids, ({batch}, {length})"),
        got: vec![labels.len(), labels.iter().map(Vec::len).max().unwrap_or(0)],
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn labels_are_shifted_once_and_never_across_rows() {
        let labels = [vec![101, 5, 6, 102], vec![101, 7, 102, -100]];
        let ids = Tensor::zeros((2, 4), candle_core::DType::U32, &Device::Cpu).unwrap();
        let shifted = ShiftedLabels::new(&labels, &ids).unwrap();
        assert_eq!(shifted.positions, [0, 1, 2, 4, 5]);
        assert_eq!(shifted.targets, [5, 6, 102, 7, 102]);
        assert!(ShiftedLabels::new(&labels[..1], &ids).is_err());
        let none = [vec![101, i64::from(NO_TARGET), 6, 102], labels[1].clone()];
        assert!(ShiftedLabels::new(&none, &ids).unwrap_err().to_string().contains("4294967295"));
    }

    #[test]
    fn padded_targets_are_a_multiple_or_all_places() {
        for ((batch, length, targets), padded) in
            [((8, 16, 1), 32), ((8, 16, 33), 64), ((8, 16, 120), 120), ((2, 5, 7), 8), ((2, 5, 8), 8)]
        {
            assert_eq!(padded_targets(batch, length, targets), padded, "{batch} x {length}, {targets}");
        }
    }

    #[test]
    fn labels_for_a_device_without_graphs_are_not_padded() {
        let labels = ShiftedLabels::of_rows(&[vec![1, 2, 3, -100, -100]], 1, 5).unwrap();
        let padded = labels.clone().padded_for(&Device::Cpu);
        assert_eq!((&padded, padded.count()), (&labels, 2));
    }
}
