use candle_core::DType;

use crate::data::Epoch;
use crate::{Error, Gradients, LossSum, LossTotal, Parameters, Result, StepContext, Task};

/// What the micro-batches of one optimizer step add up to.
pub(crate) struct Accumulated {
    /// Gradients of the mean loss over all targets of the step.
    pub(crate) gradients: Gradients,
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    pub(crate) micro_batches: Vec<MicroBatch>,
}

/// What an error message can say of a micro-batch.
pub(crate) struct MicroBatch {
    pub(crate) loss: f64,
    pub(crate) description: String,
}

/// Runs `count` micro-batches forward and backward.
///
/// Their losses are summed, and divided by the targets of the whole step at the end. So cutting a step into other
/// micro-batches does not change it; a mean of the micro-batches' means would.
pub(crate) fn accumulate<T: Task>(
    task: &T,
    parameters: &Parameters,
    batches: &mut Epoch<'_, T::Batch>,
    count: usize,
    start: StepContext,
) -> Result<Accumulated> {
    let step = start.step as usize + 1;
    let mut gradients = Gradients::new();
    let (mut samples, mut targets) = (0, 0);
    let mut losses = Vec::new();
    for _ in 0..count {
        let batch = batches.next_batch()?;
        let description = task.describe(&batch);
        let context = StepContext { first_sample: samples as u64, ..start };
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
    if targets == 0 {
        let batches = micro_batches.into_iter().map(|micro_batch| micro_batch.description).collect();
        return Err(Error::NoTargets { place: format!("step {step}"), batches });
    }
    gradients.scale(1.0 / targets as f64)?;
    let loss = LossTotal { sum: micro_batches.iter().map(|micro_batch| micro_batch.loss).sum(), targets };
    Ok(Accumulated { gradients, loss, samples, micro_batches })
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
