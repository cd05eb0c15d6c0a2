use candle_core::DType;

use crate::data::Epoch;
use crate::{Error, Gradients, LossSum, LossTotal, Parameters, Result, StepContext, Task, Workers};

/// What the micro-batches of one optimizer step add up to.
pub(crate) struct Accumulated {
    /// Gradients of the mean loss over all targets of the step.
    pub(crate) gradients: Gradients,
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    /// Of this worker.
    pub(crate) micro_batches: Vec<MicroBatch>,
    /// Whether any worker wants the run to stop, or to end.
    pub(crate) votes: Votes,
}

/// What a worker cannot decide alone, as the others would wait for it for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Votes {
    pub(crate) stop: bool,
    pub(crate) out_of_time: bool,
}

/// What an error message can say of a micro-batch.
pub(crate) struct MicroBatch {
    pub(crate) loss: f64,
    pub(crate) description: String,
}

/// Runs `count` micro-batches forward and backward, and sums what they give with that of the other workers.
///
/// Their losses are summed, and divided by the targets of the whole step at the end. So cutting a step into other
/// micro-batches does not change it; a mean of the micro-batches' means would.
pub(crate) fn accumulate<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    count: usize,
    start: StepContext,
    workers: &dyn Workers,
    votes: Votes,
) -> Result<Accumulated> {
    let step = start.step as usize + 1;
    let mut gradients = Gradients::new();
    let (mut samples, mut targets) = (0, 0);
    let mut losses = Vec::new();
    for _ in 0..count {
        let batch = batches.next_batch()?;
        let description = task.describe(&batch);
        let context = StepContext { first_sample: start.first_sample + samples as u64, ..start };
        let loss = task.train_loss(&batch, &context);
        let loss = loss.map_err(|source| Error::Task { step, batch: description.clone(), source })?;
        samples += task.num_samples(&batch);
        targets += loss.targets;
        losses.push((backward(loss, step, parameters, &mut gradients)?, description));
    }

    // Read only now: on an accelerator, reading a number waits for all that was asked before it.
    let micro_batches = losses.into_iter().map(|(loss, description)| {
        let loss = loss.map_or(Ok(0.0), |loss| loss.to_dtype(DType::F64)?.to_scalar::<f64>())?;
        Ok(MicroBatch { loss, description })
    });
    let micro_batches = micro_batches.collect::<Result<Vec<_>>>()?;
    let loss: f64 = micro_batches.iter().map(|micro_batch| micro_batch.loss).sum();
    let vote = |vote| f64::from(u8::from(vote));
    let mut numbers = [loss, targets as f64, samples as f64, vote(votes.stop), vote(votes.out_of_time)];
    workers.sum(&mut gradients, &mut numbers).map_err(|source| Error::Workers { step, source })?;
    let [loss, targets, samples, stop, out_of_time] = numbers;
    let (targets, samples) = (targets as usize, samples as usize);
    if targets == 0 {
        let batches = micro_batches.into_iter().map(|micro_batch| micro_batch.description).collect();
        return Err(Error::NoTargets { place: format!("step {step}"), batches });
    }
    gradients.scale(1.0 / targets as f64)?;
    let votes = Votes { stop: stop > 0.0, out_of_time: out_of_time > 0.0 };
    Ok(Accumulated { gradients, loss: LossTotal { sum: loss, targets }, samples, micro_batches, votes })
}

/// Adds the gradients of one micro-batch and returns its loss without the graph, which is freed here: only one is ever
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
