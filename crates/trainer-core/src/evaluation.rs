use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::data::Epoch;
use crate::workers::gather_json;
use crate::{BatchSource, Error, LossTotal, Measured, Metric, Ratio, Result, SingleProcess, Task, Workers};

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
    evaluate_together(task, source, &SingleProcess)
}

/// Evaluates a task as [`evaluate`] does, with the batches divided among workers. The result has the same bits with any
/// number of workers; only its duration is measured by each.
///
/// # Errors
/// As [`evaluate`], and [`Error::Workers`] if a worker is lost or fails.
pub fn evaluate_together<T: Task>(
    task: &T,
    source: &dyn BatchSource<Batch = T::Batch>,
    workers: &dyn Workers,
) -> Result<Evaluation> {
    let evaluation = evaluate_batches(task, source, source.batches_per_epoch(), workers)?;
    if evaluation.loss.targets == 0 {
        let batches = vec![format!("any of {} batches", evaluation.batches)];
        return Err(Error::NoTargets { place: "evaluation".to_owned(), batches });
    }
    Ok(evaluation)
}

/// A worker's measurements on a batch, exact to the last bit.
#[derive(Serialize, Deserialize)]
struct Report {
    samples: usize,
    #[serde(with = "crate::bits")]
    loss: f64,
    targets: usize,
    /// Numerators and denominators.
    ratios: Vec<(Metric, Bits, Bits)>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Bits(#[serde(with = "crate::bits")] f64);

impl Report {
    fn new(measured: &Measured, samples: usize) -> Self {
        let LossTotal { sum: loss, targets } = measured.loss;
        let ratios = measured.ratios().map(|(metric, Ratio { numerator, denominator })| {
            (metric.clone(), Bits(*numerator), Bits(*denominator))
        });
        Self { samples, loss, targets, ratios: ratios.collect() }
    }

    fn measured(self) -> Measured {
        let loss = Measured::new(LossTotal { sum: self.loss, targets: self.targets });
        let ratios = self.ratios.into_iter();
        ratios.fold(loss, |measured, (metric, Bits(numerator), Bits(denominator))| {
            measured.with(metric, Ratio { numerator, denominator })
        })
    }
}

/// Evaluates a task on the first `count` batches.
pub(crate) fn evaluate_batches<T: Task>(
    task: &T,
    source: &dyn BatchSource<Batch = T::Batch>,
    count: usize,
    workers: &dyn Workers,
) -> Result<Evaluation> {
    if source.batches_per_epoch() == 0 {
        return Err(Error::NoBatches { role: "evaluation" });
    }
    let started = Instant::now();
    let own = workers.share(count);
    let mut batches = Epoch::new(source, "evaluation", 0, own.start);
    let report = |_| {
        let batch = batches.next_batch()?;
        let measured = task.measure(&batch);
        let measured =
            measured.map_err(|source| Error::Evaluation { batch: task.describe(&batch), source })?;
        Ok(Report::new(&measured, task.num_samples(&batch)))
    };
    let reports = own.map(report).collect::<Result<Vec<_>>>()?;
    // Added in the order of the batches, as a single worker does.
    let (mut measured, mut samples) = (Measured::default(), 0);
    for report in gather_json(workers, &reports)?.into_iter().flatten() {
        samples += report.samples;
        measured.merge(&report.measured());
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Evaluation { loss: measured.loss, measured, samples, batches: count, seconds })
}
