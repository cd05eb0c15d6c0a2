use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::data::Epoch;
use crate::{BoxError, Error, LossSum, Result, StepContext, Task};

/// Micro-batches of a step that go forward and backward together: one, or several that the task merges.
pub(crate) struct Group<B> {
    /// Which of the step's micro-batches these are.
    range: Range<usize>,
    context: StepContext,
    /// What each is called in messages.
    pub(crate) descriptions: Vec<String>,
    pub(crate) samples: usize,
    batches: Vec<B>,
}

/// The ranges that `count` micro-batches are cut into, with up to `fuse` in each, and as even as can be: four at most
/// three at a time are two and two.
pub(crate) fn ranges(count: usize, fuse: usize) -> impl Iterator<Item = Range<usize>> {
    let passes = count.div_ceil(fuse);
    (0..passes).map(move |pass| pass * count / passes..(pass + 1) * count / passes)
}

impl<B> Group<B> {
    /// Takes the micro-batches of a range; the first sample of them has its place in `context`.
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

    /// The loss of all of them, in one pass.
    pub(crate) fn train_loss<T: Task<Batch = B>>(&self, task: &T) -> Result<LossSum> {
        let loss = match &self.batches[..] {
            [batch] => task.train_loss(batch, &self.context),
            batches => self.merged(task, batches).and_then(|batch| task.train_loss(&batch, &self.context)),
        };
        loss.map_err(|source| self.error(source, self.descriptions.join("; ")))
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

    /// Lets go of what [`blame`](Self::blame) has no use for.
    pub(crate) fn release(&mut self) {
        if self.batches.len() == 1 {
            self.batches.clear();
        }
    }

    /// Finds which of the micro-batches has a loss that is not finite, when that of all together, `value`, is not: each
    /// goes forward once more, alone. `count` is the number of micro-batches of the step.
    pub(crate) fn blame<T: Task<Batch = B>>(&self, task: &T, value: f64, count: usize) -> Result<NotFinite> {
        let mut context = self.context;
        for ((index, batch), description) in self.range.clone().zip(&self.batches).zip(&self.descriptions) {
            let loss = task.train_loss(batch, &context);
            let loss = loss.map_err(|source| self.error(source, description.clone()))?;
            context.first_sample += task.num_samples(batch) as u64;
            let value = if loss.targets == 0 { 0.0 } else { number(&loss.sum)? };
            if !value.is_finite() {
                let quantity = format!("loss of micro-batch {} of {count}", index + 1);
                return Ok(NotFinite { quantity, value, batches: vec![description.clone()] });
            }
        }
        // One alone, or a sum that is too large where its parts are not.
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

/// A loss that no step can be made from.
pub(crate) struct NotFinite {
    /// `loss of micro-batch 2 of 4`.
    pub(crate) quantity: String,
    pub(crate) value: f64,
    pub(crate) batches: Vec<String>,
}

/// The number in a scalar.
pub(crate) fn number(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_even_and_leave_nothing_out() {
        let cut = |count, fuse| ranges(count, fuse).collect::<Vec<_>>();
        assert_eq!(cut(4, 1), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(cut(4, 3), [0..2, 2..4]);
        assert_eq!(cut(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(cut(3, 8), [0..3; 1]);
        assert_eq!(cut(0, 4), [0..0; 0]);
    }
}
