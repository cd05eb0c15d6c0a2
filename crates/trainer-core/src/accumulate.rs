use crate::data::Epoch;
use crate::micro_batches::{MicroBatches, NotFinite, ranges, scalar};
use crate::{Error, Gradients, LossSum, LossTotal, Parameters, Result, StepContext, Task, Workers};

/// The sums over the micro-batches of one optimizer step.
pub(crate) struct Accumulated {
    /// Gradients of the mean loss of all targets of the step.
    pub(crate) gradients: Gradients,
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    /// Descriptions of this worker's micro-batches, for messages.
    pub(crate) batches: Vec<String>,
    /// This worker's first loss that is not finite.
    pub(crate) not_finite: Option<NotFinite>,
    /// Whether any worker wants to stop or end the run.
    pub(crate) votes: Votes,
}

/// Decisions that all workers must take together: if one left alone, the others would wait for it forever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Votes {
    pub(crate) stop: bool,
    pub(crate) out_of_time: bool,
}

/// How a step is split: into `count` micro-batches, up to `fuse` of them in one forward and backward pass.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    pub(crate) count: usize,
    pub(crate) fuse: usize,
}

/// Runs the forward and backward passes of a step, and sums gradients and losses over micro-batches and workers.
///
/// The sum is divided by the number of targets of the whole step, at the end. The step is therefore the same however it is
/// split into micro-batches; a mean of the micro-batches' means would not be.
pub(crate) fn accumulate<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    Split { count, fuse }: Split,
    start: StepContext,
    workers: &dyn Workers,
    votes: Votes,
) -> Result<Accumulated> {
    let step = start.step as usize + 1;
    let mut gradients = Gradients::new();
    let (mut samples, mut targets) = (0, 0);
    let mut passes = Vec::new();
    for range in ranges(count, fuse) {
        let context = StepContext { first_sample: start.first_sample + samples as u64, ..start };
        let mut group = MicroBatches::next(task, batches, range, context)?;
        let loss = group.train_loss(task)?;
        samples += group.samples;
        targets += loss.targets;
        let loss = backward(loss, step, parameters, &mut gradients)?;
        group.release();
        passes.push((group, loss));
    }

    // Read only now: on an accelerator, a read waits for all the work queued before it.
    let losses = passes.iter().map(|(_, loss)| loss.as_ref().map_or(Ok(0.0), scalar));
    let losses = losses.collect::<Result<Vec<f64>>>()?;
    let loss: f64 = losses.iter().sum();
    let vote = |vote| f64::from(u8::from(vote));
    let mut numbers = [loss, targets as f64, samples as f64, vote(votes.stop), vote(votes.out_of_time)];
    workers.sum(&mut gradients, &mut numbers).map_err(|source| Error::Workers { step, source })?;
    let [loss, targets, samples, stop, out_of_time] = numbers;
    let (targets, samples) = (targets as usize, samples as usize);
    let names = passes.iter().flat_map(|(group, _)| group.descriptions.clone()).collect();
    if targets == 0 {
        return Err(Error::NoTargets { place: format!("step {step}"), batches: names });
    }
    let not_finite = passes.iter().zip(&losses).find(|(_, loss)| !loss.is_finite());
    let not_finite =
        not_finite.map(|((group, _), loss)| group.find_non_finite(task, *loss, count)).transpose()?;
    gradients.scale(1.0 / targets as f64)?;
    let votes = Votes { stop: stop > 0.0, out_of_time: out_of_time > 0.0 };
    let loss = LossTotal { sum: loss, targets };
    Ok(Accumulated { gradients, loss, samples, batches: names, not_finite, votes })
}

/// Adds the gradients of one pass and returns its loss without the graph. The graph is freed here, so that only one is in
/// memory at a time.
fn backward(
    loss: LossSum,
    step: usize,
    parameters: &Parameters,
    gradients: &mut Gradients,
) -> Result<Option<candle_core::Tensor>> {
    if loss.targets == 0 {
        return Ok(None);
    }
    if loss.sum.rank() != 0 {
        return Err(Error::LossShape { step, shape: loss.sum.dims().to_vec() });
    }
    gradients.accumulate(parameters, loss.sum.backward()?)?;
    Ok(Some(loss.sum.detach()))
}
