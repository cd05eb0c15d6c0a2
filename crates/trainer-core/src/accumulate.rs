use crate::data::Epoch;
use crate::group::{Group, NotFinite, number, ranges};
use crate::{Error, Gradients, LossSum, LossTotal, Parameters, Result, StepContext, Task, Workers};

/// What the micro-batches of one optimizer step add up to.
pub(crate) struct Accumulated {
    /// Gradients of the mean loss over all targets of the step.
    pub(crate) gradients: Gradients,
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    /// What this worker's micro-batches are called in messages.
    pub(crate) batches: Vec<String>,
    /// The first of this worker's losses that is not finite.
    pub(crate) not_finite: Option<NotFinite>,
    /// Whether any worker wants the run to stop, or to end.
    pub(crate) votes: Votes,
}

/// What a worker cannot decide alone, as the others would wait for it for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Votes {
    pub(crate) stop: bool,
    pub(crate) out_of_time: bool,
}

/// How a step is cut: into so many micro-batches, of which up to `fuse` go forward and backward together.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) count: usize,
    pub(crate) fuse: usize,
}

/// Runs the micro-batches of a step forward and backward, and sums what they give with that of the other workers.
///
/// Their losses are summed, and divided by the targets of the whole step at the end. So cutting a step into other
/// micro-batches does not change it; a mean of the micro-batches' means would.
pub(crate) fn accumulate<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    Cut { count, fuse }: Cut,
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
        let mut group = Group::next(task, batches, range, context)?;
        let loss = group.train_loss(task)?;
        samples += group.samples;
        targets += loss.targets;
        let loss = backward(loss, step, parameters, &mut gradients)?;
        group.release();
        passes.push((group, loss));
    }

    // Read only now: on an accelerator, reading a number waits for all that was asked before it.
    let losses = passes.iter().map(|(_, loss)| loss.as_ref().map_or(Ok(0.0), number));
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
    let not_finite = not_finite.map(|((group, _), loss)| group.blame(task, *loss, count)).transpose()?;
    gradients.scale(1.0 / targets as f64)?;
    let votes = Votes { stop: stop > 0.0, out_of_time: out_of_time > 0.0 };
    let loss = LossTotal { sum: loss, targets };
    Ok(Accumulated { gradients, loss, samples, batches: names, not_finite, votes })
}

/// Adds the gradients of one pass and returns its loss without the graph, which is freed here: only one is ever
/// in memory.
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
