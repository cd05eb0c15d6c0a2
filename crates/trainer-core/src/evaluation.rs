use std::time::Instant;

use crate::data::Epoch;
use crate::{BatchSource, Error, LossTotal, Measured, Result, Task};

/// What a task's loss is on some data, and what else it measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Summed over all targets of all batches.
    pub loss: LossTotal,
    /// The loss and all other metrics.
    pub measured: Measured,
    /// Samples evaluated.
    pub samples: usize,
    /// Batches evaluated.
    pub batches: usize,
    /// Time it took.
    pub seconds: f64,
}

/// Runs a task over all batches of a source's first epoch, without dropout.
///
/// The loss is a mean over targets: unlike a mean over batches it does not depend on how samples are batched.
///
/// # Errors
/// [`Error::NoBatches`] and [`Error::NoTargets`] for data that has none, and the errors of the task and the source.
pub fn evaluate<T: Task>(task: &T, source: &dyn BatchSource<Batch = T::Batch>) -> Result<Evaluation> {
    let evaluation = evaluate_batches(task, source, source.batches_per_epoch())?;
    if evaluation.loss.targets == 0 {
        let batches = vec![format!("any of {} batches", evaluation.batches)];
        return Err(Error::NoTargets { place: "evaluation".to_owned(), batches });
    }
    Ok(evaluation)
}

/// Runs a task over the first `count` batches.
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
        let of_batch = task.measure(&batch);
        let of_batch =
            of_batch.map_err(|source| Error::Evaluation { batch: task.describe(&batch), source })?;
        measured.merge(&of_batch);
        samples += task.num_samples(&batch);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Evaluation { loss: measured.loss, measured, samples, batches: count, seconds })
}
