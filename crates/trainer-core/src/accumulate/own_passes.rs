//! The forward and backward passes of one worker.

use candle_core::Tensor;

use super::{Split, Step, adds_at_once};
use crate::data::Epoch;
use crate::kept_sums::KeptSums;
use crate::micro_batches::{MicroBatches, ranges};
use crate::passes::Passes;
use crate::segments;
use crate::workers::HostSum;
use crate::{Error, Gradients, LossSum, Parameters, Result, Segments, StepContext, Task};

/// The results of one worker's passes in a step.
pub(super) struct Own<B> {
    /// Their gradients, to be added in this order, without those that a sum on the host has sent already.
    pub(super) slots: Vec<Gradients>,
    pub(super) passes: Passes<B>,
    /// As [`Report::completed`](super::Report::completed).
    pub(super) completed: Vec<usize>,
}

/// Runs this worker's passes.
pub(super) fn own_passes<T: Task>(
    step: &Step<'_, T>,
    batches: &mut Epoch<'_, T::Batch>,
    kept: &mut KeptSums,
    mut sum: Option<&mut HostSum<'_>>,
) -> Result<Own<T::Batch>> {
    let Step { task, parameters, split: Split { count, fuse }, start, workers } = *step;
    let step = start.step as usize + 1;
    kept.begin();
    let all: Vec<_> = ranges(count, fuse).collect();
    let own = workers.share(all.len());
    let (mut slots, mut passes, mut samples) = (Vec::new(), Passes::new(), 0);
    let mut completed = Vec::new();
    for (pass, range) in all.into_iter().enumerate() {
        if !own.contains(&pass) {
            samples += batches.skip(range.len(), |batch| task.num_samples(batch))?;
            continue;
        }
        // Only the last pass can send early: a block has the gradients of all slots, and the last one is complete in the last pass.
        let mut sum = sum.as_deref_mut().filter(|sum| pass + 1 == own.end && sum.overlaps());
        let context = StepContext { first_sample: start.first_sample + samples as u64, ..start };
        let group = MicroBatches::next(task, batches, range, context)?;
        let (segments, gradients) = group.train(task, parameters, sum.is_some())?;
        samples += group.samples;
        let targets = segments.loss.targets;
        if slots.is_empty() || !adds_at_once(workers.rank()) {
            slots.push(Gradients::new());
        }
        let loss = match sum.as_mut() {
            Some(sum) if gradients.is_none() => {
                backward_and_send(segments, step, parameters, &mut slots, sum, &mut completed)?
            }
            _ => {
                let place = Place { step, kept: &mut *kept, pass: pass - own.start, passes: own.len() };
                backward((segments.loss, gradients), parameters, &mut slots, place)?
            }
        };
        passes.push(group, targets, loss);
    }
    Ok(Own { slots, passes, completed })
}

/// Where the results of a pass are added: it is one of this worker's `passes` in a step.
struct Place<'a> {
    step: usize,
    kept: &'a mut KeptSums,
    pass: usize,
    passes: usize,
}

/// Adds the gradients of one pass to the last slot and returns its loss without the graph. The gradients are computed here
/// unless the task has computed them. The graph is freed here, so that only one is in memory at a time.
fn backward(
    (loss, computed): (LossSum, Option<Gradients>),
    parameters: &Parameters,
    slots: &mut [Gradients],
    Place { step, kept, pass, passes }: Place<'_>,
) -> Result<Option<Tensor>> {
    let is_only_slot = slots.len() == 1;
    let Some(gradients) = slots.last_mut().filter(|_| loss.targets > 0) else { return Ok(None) };
    require_scalar(&loss, step)?;
    let value = loss.sum.detach();
    let Some(computed) = computed else {
        gradients.accumulate(parameters, loss.sum.backward()?)?;
        return Ok(Some(value));
    };
    // The task may use the memory of its results for those of the next pass.
    match (passes, is_only_slot) {
        (1, _) => gradients.add(&computed)?,
        (_, true) => kept.add(gradients, &computed)?,
        (_, false) => gradients.add(&computed.copied()?)?,
    }
    let value = if passes > 1 { kept.loss(&value, pass, passes)? } else { value };
    Ok(Some(value))
}

/// The same segment by segment, with the gradients sent as they become complete.
fn backward_and_send(
    Segments { loss, cuts }: Segments,
    step: usize,
    parameters: &Parameters,
    slots: &mut [Gradients],
    sum: &mut HostSum<'_>,
    completed: &mut Vec<usize>,
) -> Result<Option<Tensor>> {
    if loss.targets == 0 {
        return Ok(None);
    }
    require_scalar(&loss, step)?;
    let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
    let value = loss.sum.detach();
    segments::backward(loss.sum, cuts, parameters, |complete| {
        for (parameter, gradient) in complete {
            if let (Some(slot), Some(gradient)) = (slots.last_mut(), gradient) {
                slot.add_one(names[parameter], gradient)?;
            }
            sum.complete(parameter);
            completed.push(parameter);
        }
        sum.send(slots)
    })?;
    Ok(Some(value))
}

fn require_scalar(loss: &LossSum, step: usize) -> Result<()> {
    match loss.sum.rank() {
        0 => Ok(()),
        _ => Err(Error::LossShape { step, shape: loss.sum.dims().to_vec() }),
    }
}
