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
    let Some(packed) = packed_top_logits(logits, count)? else { return Ok(None) };
    Ok(Some(TopLogits::unpack(&packed.to_vec1()?, count)))
}

/// [`top_logits`] as one tensor on the device, `(rows * (2 * count + 1))`, for [`TopLogits::unpack`] when it was copied to the host.
///
/// # Errors
/// As [`top_logits`].
pub fn packed_top_logits(logits: &Tensor, count: usize) -> Result<Option<Tensor>> {
    Ok(cuda::packed_top_logits(logits, count)?)
}

impl TopLogits {
    /// From the values of [`packed_top_logits`]: all logits, then the bits of all ids, then the sums of all rows.
    pub fn unpack(packed: &[f32], count: usize) -> Self {
        let all = packed.len() / (2 * count + 1) * count;
        let (logits, rest) = packed.split_at(all);
        let (ids, log_sums) = rest.split_at(all);
        Self {
            ids: ids.iter().map(|id| id.to_bits()).collect(),
            logits: logits.to_vec(),
            log_sums: log_sums.to_vec(),
        }
    }
}
