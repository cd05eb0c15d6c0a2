mod own_passes;

use serde::{Deserialize, Serialize};

use crate::data::Epoch;
use crate::kept_sums::KeptSums;
use crate::micro_batches::{ranges, scalar};
use crate::passes::{PassReport, Passes, Totals};
use crate::workers::{HostSum, gather_json, share, sum_on_device};
use crate::{Error, Gradients, Parameters, Result, StepContext, Task, Workers};

use own_passes::{Own, own_passes};

/// The sums over the micro-batches of one optimizer step.
pub(crate) struct Accumulated<B> {
    /// Gradients of the sum of the losses of all targets. Equal for all workers.
    pub(crate) gradients: Gradients,
    /// The number of targets, at least 1.
    pub(crate) targets: usize,
    pub(crate) losses: Losses<B>,
}

/// The losses of a step.
pub(crate) enum Losses<B> {
    /// The losses of several workers, which have exchanged them.
    Read(Totals),
    /// The losses of a single worker, still on its device: they are read together with the norms, after the update was launched.
    Unread(Passes<B>),
}

/// How a step is split: into `count` micro-batches, up to `fuse` of them in one forward and backward pass.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    pub(crate) count: usize,
    pub(crate) fuse: usize,
}

impl Split {
    /// The number of slots of gradients of each of `count` workers.
    fn slots(self, count: usize) -> Vec<usize> {
        let passes = ranges(self.count, self.fuse).count();
        let own = (0..count).map(|rank| share(passes, rank, count).len());
        own.enumerate()
            .map(|(rank, passes)| if adds_at_once(rank) { passes.min(1) } else { passes })
            .collect()
    }
}

/// A step of some parameters on a task, shared by some workers.
pub(crate) struct Step<'a, T> {
    pub(crate) task: &'a T,
    pub(crate) parameters: &'a Parameters,
    pub(crate) split: Split,
    /// The context of its first sample.
    pub(crate) start: StepContext,
    pub(crate) workers: &'a dyn Workers,
}

/// Memory that is kept from step to step.
#[derive(Default)]
pub(crate) struct StepMemory {
    /// The order in which backward passes complete the gradients of the parameters, by index; `None` before it is known.
    order: Option<Vec<usize>>,
    kept: KeptSums,
}

/// Worker 0 has the first passes of the sum, so it can add their gradients at once. The others must keep those of each pass.
fn adds_at_once(rank: usize) -> bool {
    rank == 0
}

/// The results of one worker's part of a step that the other workers need.
#[derive(Serialize, Deserialize)]
struct Report {
    /// In the order of the step.
    passes: Vec<PassReport>,
    /// For each slot of gradients, the indices of the parameters that got none.
    missing: Vec<Vec<usize>>,
    /// The parameters, by index, in the order in which a backward pass in segments completed their gradients. Empty without one.
    completed: Vec<usize>,
}

/// Runs this worker's forward and backward passes of a step, and sums gradients and losses over the passes of all workers, in
/// the order of the passes.
///
/// The sum is divided by the number of targets of the whole step, by [`Optimizer::clipped_step`](crate::Optimizer::clipped_step). So
/// the step is the same however it is split into micro-batches; with a mean of the micro-batches' means it would not be.
pub(crate) fn accumulate<T: Task>(
    step: &Step<'_, T>,
    batches: &mut Epoch<'_, T::Batch>,
    StepMemory { order, kept }: &mut StepMemory,
) -> Result<Accumulated<T::Batch>> {
    let Step { parameters, split, start, workers, .. } = *step;
    let on_host = workers.count() > 1 && !on_one_accelerator(parameters);
    let send_order = order.clone();
    let mut sum = on_host
        .then(|| HostSum::new(parameters, send_order.as_deref(), split.slots(workers.count()), workers));
    let Own { mut slots, passes, completed } = own_passes(step, batches, kept, sum.as_mut())?;
    let place = || format!("step {}", start.step + 1);
    if workers.count() == 1 {
        let targets = passes.targets();
        if targets == 0 {
            return Err(Error::NoTargets { place: place(), batches: passes.descriptions() });
        }
        let gradients = slots.pop().unwrap_or_default();
        return Ok(Accumulated { gradients, targets, losses: Losses::Unread(passes) });
    }
    // A sum on the host sends with the gradients which of them are missing.
    let missing = match sum {
        None => slots.iter().map(|slot: &Gradients| slot.missing_indices(parameters)).collect(),
        Some(_) => Vec::new(),
    };
    let values = passes.losses().iter().map(scalar).collect::<Result<Vec<_>>>()?;
    let own = Report { passes: passes.reports(&values, step.task, split.count)?, missing, completed };
    let on_host = sum.map(|sum| sum.finish(std::mem::take(&mut slots))).transpose()?;
    let reports = gather_json(workers, &own)?;
    order_of(&reports, parameters, order);
    let missing: Vec<_> = reports.iter().map(|report| report.missing.clone()).collect();
    let totals = Totals::of(reports.into_iter().flat_map(|report| report.passes).collect());
    let targets = totals.loss.targets;
    if targets == 0 {
        return Err(Error::NoTargets { place: place(), batches: totals.batches });
    }
    let gradients = match on_host {
        Some(gradients) => gradients,
        None => sum_on_device(parameters, slots, &missing, workers)?,
    };
    Ok(Accumulated { gradients, targets, losses: Losses::Read(totals) })
}

/// Whether all parameters are on one device that is not the CPU.
fn on_one_accelerator(parameters: &Parameters) -> bool {
    let mut devices = parameters.iter().map(|(_, variable)| variable.device());
    devices.next().is_some_and(|first| !first.is_cpu() && devices.all(|device| device.same_device(first)))
}

/// Sets `order`, if it is not known yet, to the order in which the first worker with a pass completed its gradients. It is
/// equal on all workers. The next steps send gradients in this order.
fn order_of(reports: &[Report], parameters: &Parameters, order: &mut Option<Vec<usize>>) {
    if order.is_some() {
        return;
    }
    let completed = reports.iter().map(|report| &report.completed).find(|completed| !completed.is_empty());
    *order = completed.filter(|completed| completed.len() == parameters.iter().count()).cloned();
}
