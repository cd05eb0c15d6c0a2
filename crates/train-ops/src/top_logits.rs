use candle_core::Tensor;

use crate::{Result, cuda};

/// The largest logits of some rows, in descending order. Equal ones are in the order of their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogits {
    /// The columns of the logits, `(rows, count)`.
    pub ids: Vec<u32>,
    /// The logits, `(rows, count)`.
    pub logits: Vec<f32>,
    /// `log Σ exp` of all logits of each row, `(rows)`.
    pub log_sums: Vec<f32>,
}

/// The `count` largest elements of each row of `logits` `(rows, vocabulary)`. They are found on the device, so
/// that only they are copied to the host. `None` if there is no kernel for it.
///
/// # Errors
/// If `count` is 0 or more than the vocabulary, or the device fails.
pub fn top_logits(logits: &Tensor, count: usize) -> Result<Option<TopLogits>> {
    Ok(cuda::top_logits(logits, count)?)
}
