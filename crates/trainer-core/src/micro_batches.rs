use std::ops::Range;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::data::Epoch;
use crate::{BoxError, Error, Gradients, Parameters, Result, Segments, StepContext, Task};

/// The micro-batches of one forward and backward pass: a single one, or several that the task merges.
pub(crate) struct MicroBatches<B> {
    /// Their indices within the step.
    range: Range<usize>,
    context: StepContext,
    /// Their descriptions, for messages.
    pub(crate) descriptions: Vec<String>,
    pub(crate) samples: usize,
    batches: Vec<B>,
}

/// Splits `count` micro-batches into ranges of at most `fuse`, as evenly as possible: 4 with `fuse` 3 into 2 and 2.
pub(crate) fn ranges(count: usize, fuse: usize) -> impl Iterator<Item = Range<usize>> {
    let passes = count.div_ceil(fuse);
    (0..passes).map(move |pass| pass * count / passes..(pass + 1) * count / passes)
}

impl<B> MicroBatches<B> {
    /// Loads the micro-batches of a range. `context` is that of their first sample.
    pub(crate) fn next<T: Task<Batch = B>>(
        task: &T,
        batches: &mut Epoch<'_, B>,
        range: Range<usize>,
        context: StepContext,
    ) -> Result<Self> {
        let batches = range.clone().map(|_| batches.next_batch()).collect::<Result<Vec<_>>>()?;
        let descriptions = batches.iter().map(|batch| task.describe(batch)).collect();
        let samples = batches.iter().map(|batch| task.num_samples(batch)).sum();
        Ok(Self { range, context, descriptions, samples, batches })
    }

    /// Computes the loss of all of them in one pass, and the gradients if the task does that itself. The graph is cut into
    /// segments if `in_segments`.
    pub(crate) fn train<T: Task<Batch = B>>(
        &self,
        task: &T,
        parameters: &Parameters,
        in_segments: bool,
    ) -> Result<(Segments, Option<Gradients>)> {
        let train = |batch: &B| match task.train_gradients(batch, &self.context, parameters)? {
            Some((loss, gradients)) => Ok((loss.into(), Some(gradients))),
            None if in_segments => Ok((task.train_segments(batch, &self.context)?, None)),
            None => Ok((task.train_loss(batch, &self.context)?.into(), None)),
        };
        let trained = match &self.batches[..] {
            [batch] => train(batch),
            batches => self.merged(task, batches).and_then(|batch| train(&batch)),
        };
        trained.map_err(|source| self.error(source, self.descriptions.join("; ")))
    }

    fn merged<T: Task<Batch = B>>(&self, task: &T, batches: &[B]) -> Result<B, BoxError> {
        let merged = task.merge(batches)?;
        let (samples, expected) = (task.num_samples(&merged), self.samples);
        if samples == expected {
            Ok(merged)
        } else {
            Err(format!("micro-batches of {expected} samples were merged into one of {samples}").into())
        }
    }

    /// Frees the batches that [`find_non_finite`](Self::find_non_finite) will not need.
    pub(crate) fn release(&mut self) {
        if self.batches.len() == 1 {
            self.batches.clear();
        }
    }

    /// Finds the micro-batch whose loss is not finite, after their joint loss `value` was not: runs the forward
    /// pass of each alone. `count` is the number of micro-batches of the step.
    pub(crate) fn find_non_finite<T: Task<Batch = B>>(
        &self,
        task: &T,
        value: f64,
        count: usize,
    ) -> Result<NotFinite> {
        let mut context = self.context;
        for ((index, batch), description) in self.range.clone().zip(&self.batches).zip(&self.descriptions) {
            let loss = task.train_loss(batch, &context);
            let loss = loss.map_err(|source| self.error(source, description.clone()))?;
            context.first_sample += task.num_samples(batch) as u64;
            let value = if loss.targets == 0 { 0.0 } else { scalar(&loss.sum)? };
            if !value.is_finite() {
                let quantity = format!("loss of micro-batch {} of {count}", index + 1);
                return Ok(NotFinite { quantity, value, batches: vec![description.clone()] });
            }
        }
        // There is only one micro-batch, or the sum overflows although its parts do not.
        let which = match self.range.len() {
            1 => format!("micro-batch {}", self.range.end),
            _ => format!("micro-batches {} to {}", self.range.start + 1, self.range.end),
        };
        let quantity = format!("loss of {which} of {count}");
        Ok(NotFinite { quantity, value, batches: self.descriptions.clone() })
    }

    fn error(&self, source: BoxError, batch: String) -> Error {
        Error::Task { step: self.context.step as usize + 1, batch, source }
    }
}

/// A loss that is NaN or infinite.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NotFinite {
    /// For example `loss of micro-batch 2 of 4`.
    pub(crate) quantity: String,
    #[serde(with = "crate::bits")]
    pub(crate) value: f64,
    pub(crate) batches: Vec<String>,
}

/// Reads a scalar tensor. An f32 is converted here, as a device would need memory for it.
pub(crate) fn scalar(tensor: &Tensor) -> Result<f64> {
    match tensor.dtype() {
        DType::F32 => Ok(f64::from(tensor.to_scalar::<f32>()?)),
        _ => Ok(tensor.to_dtype(DType::F64)?.to_scalar::<f64>()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_even_and_complete() {
        let split = |count, fuse| ranges(count, fuse).collect::<Vec<_>>();
        assert_eq!(split(4, 1), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(split(4, 3), [0..2, 2..4]);
        assert_eq!(split(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(split(3, 8), [0..3; 1]);
        assert_eq!(split(0, 4), [0..0; 0]);
    }
}
