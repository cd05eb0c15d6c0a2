use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::data::Epoch;
use crate::micro_batches::{MicroBatches, NotFinite, ranges, scalar};
use crate::workers::{gather_json, sum_in_order};
use crate::{Error, Gradients, LossSum, LossTotal, Parameters, Result, StepContext, Task, Workers};

/// The sums over the micro-batches of one optimizer step. Equal for all workers.
pub(crate) struct Accumulated {
    /// Gradients of the mean loss of all targets of the step.
    pub(crate) gradients: Gradients,
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    /// Descriptions of the micro-batches, for messages.
    pub(crate) batches: Vec<String>,
    /// The first loss that is not finite.
    pub(crate) not_finite: Option<NotFinite>,
}

/// How a step is split: into `count` micro-batches, up to `fuse` of them in one forward and backward pass.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    pub(crate) count: usize,
    pub(crate) fuse: usize,
}

/// The results of one worker's part of a step that the other workers need.
#[derive(Serialize, Deserialize)]
struct Report {
    /// In the order of the step.
    passes: Vec<PassReport>,
    /// For each slot of gradients, the indices of the parameters that got none.
    missing: Vec<Vec<usize>>,
}

#[derive(Serialize, Deserialize)]
struct PassReport {
    #[serde(with = "crate::bits")]
    loss: f64,
    targets: usize,
    samples: usize,
    batches: Vec<String>,
    not_finite: Option<NotFinite>,
}

/// Runs this worker's forward and backward passes of a step, and sums gradients and losses over the passes of all workers, in
/// the order of the passes.
///
/// The sum is divided by the number of targets of the whole step, at the end. So the step is the same however
/// it is split into micro-batches; with a mean of the micro-batches' means it would not be.
pub(crate) fn accumulate<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    split: Split,
    start: StepContext,
    workers: &dyn Workers,
) -> Result<Accumulated> {
    let (slots, own) = own_passes(task, parameters, batches, split, start, workers)?;
    let reports = gather_json(workers, &own)?;
    let missing: Vec<_> = reports.iter().map(|report| report.missing.clone()).collect();
    let passes: Vec<PassReport> = reports.into_iter().flat_map(|report| report.passes).collect();

    let loss = passes.iter().map(|pass| pass.loss).sum();
    let samples = passes.iter().map(|pass| pass.samples).sum();
    let targets = passes.iter().map(|pass| pass.targets).sum();
    let not_finite = passes.iter().find_map(|pass| pass.not_finite.clone());
    let batches = passes.into_iter().flat_map(|pass| pass.batches).collect();
    if targets == 0 {
        return Err(Error::NoTargets { place: format!("step {}", start.step + 1), batches });
    }
    let mut gradients = sum_in_order(parameters, slots, &missing, workers)?;
    gradients.scale(1.0 / targets as f64)?;
    Ok(Accumulated { gradients, loss: LossTotal { sum: loss, targets }, samples, batches, not_finite })
}

/// Runs this worker's passes. Returns their gradients in slots, to be added in this order, and the report of
/// the passes.
fn own_passes<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    Split { count, fuse }: Split,
    start: StepContext,
    workers: &dyn Workers,
) -> Result<(Vec<Gradients>, Report)> {
    let step = start.step as usize + 1;
    let all: Vec<_> = ranges(count, fuse).collect();
    let own = workers.share(all.len());
    let (mut slots, mut passes, mut samples) = (Vec::new(), Vec::new(), 0);
    for (pass, range) in all.into_iter().enumerate() {
        if !own.contains(&pass) {
            samples += batches.skip(range.len(), |batch| task.num_samples(batch))?;
            continue;
        }
        let context = StepContext { first_sample: start.first_sample + samples as u64, ..start };
        let mut group = MicroBatches::next(task, batches, range, context)?;
        let (loss, gradients) = group.train(task, parameters)?;
        samples += group.samples;
        let targets = loss.targets;
        // Worker 0 has the first passes of the sum, so it can add their gradients at once. The others must keep
        // those of each pass.
        let mut slot = if workers.rank() == 0 { slots.pop().unwrap_or_default() } else { Gradients::new() };
        let loss = backward((loss, gradients), step, parameters, &mut slot)?;
        slots.push(slot);
        group.release();
        passes.push((group, targets, loss));
    }

    // Losses are read only now: on an accelerator, a read waits for all work that was queued before it.
    let mut is_finite = true;
    let report = |(group, targets, loss): (MicroBatches<T::Batch>, usize, Option<Tensor>)| {
        let loss = loss.as_ref().map_or(Ok(0.0), scalar)?;
        let is_first = !loss.is_finite() && std::mem::take(&mut is_finite);
        let not_finite = is_first.then(|| group.find_non_finite(task, loss, count)).transpose()?;
        let (samples, batches) = (group.samples, group.descriptions);
        Ok(PassReport { loss, targets, samples, batches, not_finite })
    };
    let passes = passes.into_iter().map(report).collect::<Result<_>>()?;
    let missing = slots.iter().map(|slot| slot.missing_indices(parameters)).collect();
    Ok((slots, Report { passes, missing }))
}

/// Adds the gradients of one pass and returns its loss without the graph. The gradients are computed here
/// unless the task has computed them. The graph is freed here, so that only one is in memory at a time.
fn backward(
    (loss, computed): (LossSum, Option<Gradients>),
    step: usize,
    parameters: &Parameters,
    gradients: &mut Gradients,
) -> Result<Option<Tensor>> {
    if loss.targets == 0 {
        return Ok(None);
    }
    if loss.sum.rank() != 0 {
        return Err(Error::LossShape { step, shape: loss.sum.dims().to_vec() });
    }
    match computed {
        Some(computed) => gradients.add(&computed)?,
        None => gradients.accumulate(parameters, loss.sum.backward()?)?,
    }
    Ok(Some(loss.sum.detach()))
}
