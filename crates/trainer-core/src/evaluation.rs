use std::time::Instant;

use serde::Serialize;

use crate::data::Epoch;
use crate::{BatchSource, Error, LossTotal, Measured, Result, Task};

/// The loss and metrics of a task on some data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Loss, summed over all targets.
    pub loss: LossTotal,
    /// The loss and all other metrics.
    pub measured: Measured,
    /// Number of samples.
    pub samples: usize,
    /// Number of batches.
    pub batches: usize,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Evaluates a task on all batches of a source's first epoch, without dropout.
///
/// The mean loss is over targets: unlike a mean over batches, it does not depend on how samples are batched.
///
/// # Errors
/// [`Error::NoBatches`] and [`Error::NoTargets`] for data without batches or targets, [`Error::Evaluation`] if the task
/// fails, and [`Error::Data`] and [`Error::ShortEpoch`] if the source does.
pub fn evaluate<T: Task>(task: &T, source: &dyn BatchSource<Batch = T::Batch>) -> Result<Evaluation> {
    let evaluation = evaluate_batches(task, source, source.batches_per_epoch())?;
    if evaluation.loss.targets == 0 {
        let batches = vec![format!("any of {} batches", evaluation.batches)];
        return Err(Error::NoTargets { place: "evaluation".to_owned(), batches });
    }
    Ok(evaluation)
}

/// Evaluates a task on the first `count` batches.
pub(crate) fn evaluate_batches<T: Task>(
    task: &T,
    source: &dyn BatchSource<Batch = T::Batch>,
    count: usize,
) -> Result<Evaluation> {
    if source.batches_per_epoch() == 0 {
        return Err(Error::NoBatches { role: "evaluation" });
    }
    let started = Instant::now();
    let (mut measured, mut samples) = (Measured::default(), 0);
    let mut batches = Epoch::new(source, "evaluation", 0, 0);
    for _ in 0..count {
        let batch = batches.next_batch()?;
        let batch_measured = task.measure(&batch);
        let batch_measured =
            batch_measured.map_err(|source| Error::Evaluation { batch: task.describe(&batch), source })?;
        measured.merge(&batch_measured);
        samples += task.num_samples(&batch);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Evaluation { loss: measured.loss, measured, samples, batches: count, seconds })
}
