//! The text of a training batch as the input of a model.

use candle_core::{Device, Tensor};
use caption_data::{CaptionBatch, IGNORE_INDEX};
use trainer_core::BoxError;

/// On a GPU, captions are padded to a multiple of this number of tokens. A recorded pass is only valid for one
/// length, so a run should have few lengths.
const LENGTH_STEP: usize = 8;

/// The tokens of a batch of captions.
#[derive(Debug)]
pub struct TrainingText {
    /// Token ids `(batch, length)`, on the CPU.
    pub input_ids: Tensor,
    /// The ids, `(batch, length)`, with -100 at positions without a target.
    pub labels: Vec<Vec<i64>>,
}

impl TrainingText {
    /// The captions, padded to at least `length` tokens. The padding is at the end and has no targets, and no
    /// token attends to it, so it changes the loss and its gradients only by rounding.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn new(captions: &CaptionBatch, length: usize) -> Result<Self, BoxError> {
        let length = length.max(captions.seq_len());
        let input_ids = captions.input_ids(&Device::Cpu)?;
        // The padding may be any token.
        let input_ids = input_ids.pad_with_zeros(1, 0, length - captions.seq_len())?;
        let mut labels = captions.labels(&Device::Cpu)?.to_vec2::<i64>()?;
        labels.iter_mut().for_each(|labels| labels.resize(length, IGNORE_INDEX));
        Ok(Self { input_ids, labels })
    }
}

/// The number of tokens of which a text's length is a multiple in training on a device.
pub fn length_multiple(device: &Device) -> usize {
    if device.is_cuda() { LENGTH_STEP } else { 1 }
}

/// The number of tokens to which captions of `length` tokens are padded in training on a device, for a model
/// that reads at most `max_length`: one of a few lengths on a GPU, `length` on other devices.
pub fn padded_length(length: usize, max_length: usize, device: &Device) -> usize {
    match device.is_cuda() {
        true => bucketed_length(length, max_length),
        false => length,
    }
}

/// The next multiple of 8, but at most `max_length` and at least `length`.
pub fn bucketed_length(length: usize, max_length: usize) -> usize {
    length.next_multiple_of(LENGTH_STEP).min(max_length).max(length)
}

#[cfg(test)]
mod tests {
    use caption_data::Padding;

    use super::*;

    #[test]
    fn lengths_are_multiples_of_8_on_a_gpu_and_never_more_than_a_model_reads() {
        assert_eq!([1, 8, 9, 17, 20].map(|length| bucketed_length(length, 20)), [8, 8, 16, 20, 20]);
        assert_eq!(bucketed_length(21, 20), 21, "too long: the model's own error says so");
        assert_eq!(padded_length(9, 20, &Device::Cpu), 9);
    }

    #[test]
    fn padding_has_no_targets() {
        let captions = CaptionBatch::new(vec![0, 1], vec![vec![1, 2], vec![3, 4, 5]], 9, Padding::Longest);
        let captions = captions.unwrap();
        let text = TrainingText::new(&captions, 5).unwrap();
        assert_eq!(text.input_ids.to_vec2::<u32>().unwrap(), [[1, 2, 9, 0, 0], [3, 4, 5, 0, 0]]);
        let ignored = IGNORE_INDEX;
        assert_eq!(text.labels, [[1, 2, ignored, ignored, ignored], [3, 4, 5, ignored, ignored]]);
        let text = TrainingText::new(&captions, 1).unwrap();
        assert_eq!(text.input_ids.dims(), [2, 3]);
    }
}
