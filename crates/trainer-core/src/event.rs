use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{BoxError, LogEntry, Metric, Warning};

/// Something that happened in a run. The engine reports its progress only as events, and prints nothing.
///
/// In JSON, an event is an object with its kind under `event`, in snake case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Training begins. All checks before the first step have passed.
    Started {
        /// Unique name of the run, unchanged by a resume.
        run: String,
        /// Number of trainable scalars.
        trainable_parameters: usize,
        /// Number of completed steps: 0 unless the run is resumed.
        global_step: usize,
        /// Total number of steps.
        max_steps: usize,
        /// Steps per epoch.
        steps_per_epoch: usize,
    },
    /// The state of a checkpoint was restored.
    Resumed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Number of completed steps.
        global_step: usize,
    },
    /// An optimizer step was completed.
    Step(StepReport),
    /// An entry was added to the log.
    Log(LogEntry),
    /// The speed of the run; follows every entry of the training log.
    Throughput(Throughput),
    /// An evaluation begins.
    EvaluationStarted {
        /// Number of completed steps.
        global_step: usize,
        /// Number of batches to evaluate.
        batches: usize,
    },
    /// A checkpoint is complete.
    CheckpointSaved {
        /// Its directory.
        path: PathBuf,
        /// Number of completed steps.
        global_step: usize,
        /// Whether its evaluation is the best so far.
        best: bool,
    },
    /// A checkpoint was deleted because of `save_total_limit`.
    CheckpointRemoved {
        /// Its directory.
        path: PathBuf,
    },
    /// The parameters of the best checkpoint were loaded.
    BestLoaded {
        /// Its directory.
        path: PathBuf,
        /// The metric that selects the best.
        metric: String,
        /// Its value.
        value: f64,
    },
    /// The run stopped on request. It can be resumed from the checkpoint.
    Interrupted {
        /// Directory of the checkpoint.
        checkpoint: PathBuf,
        /// Number of completed steps.
        global_step: usize,
    },
    /// The run ends before its last step, for good.
    StoppedEarly {
        /// Number of completed steps.
        global_step: usize,
        /// The reason.
        reason: String,
    },
    /// The run is over.
    Finished {
        /// Number of completed steps.
        global_step: usize,
    },
    /// Something is probably not as intended. The run continues.
    Warning(Warning),
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Number of completed steps, including this one.
    pub global_step: usize,
    /// Total number of steps.
    pub max_steps: usize,
    /// Number of completed epochs, as a fraction.
    pub epoch: f64,
    /// Mean loss per target.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Number of samples.
    pub samples: usize,
    /// Number of targets, such as tokens.
    pub targets: usize,
    /// Duration in seconds, including data loading.
    pub seconds: f64,
}

/// The speed of the steps since the previous report, without evaluations and checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Throughput {
    /// Number of completed steps.
    pub global_step: usize,
    /// Samples per second.
    pub samples_per_second: f64,
    /// Targets per second.
    pub tokens_per_second: f64,
    /// Resident memory of the process in bytes, if the system reports it.
    pub memory: Option<u64>,
}

impl Throughput {
    /// Returns the values with their metrics.
    pub fn values(&self) -> Vec<(Metric, f64)> {
        let mut values = vec![
            (Metric::SAMPLES_PER_SECOND, self.samples_per_second),
            (Metric::TOKENS_PER_SECOND, self.tokens_per_second),
        ];
        values.extend(self.memory.map(|bytes| (Metric::MEMORY, bytes as f64)));
        values
    }
}

/// Receives the events of a run, to show, write or collect them.
///
/// An error stops the run: a log that silently lacks entries would be worse. A closure is a sink:
///
/// ```
/// use trainer_core::{BoxError, Event, EventSink};
///
/// let mut steps = 0;
/// let mut count = |event: &Event| -> Result<(), BoxError> {
///     steps += usize::from(matches!(event, Event::Step(_)));
///     Ok(())
/// };
/// count.event(&Event::Finished { global_step: 7 })?;
/// assert_eq!(steps, 0);
/// # Ok::<(), BoxError>(())
/// ```
pub trait EventSink: Send {
    /// Receives one event. Events arrive in the order in which they happened.
    ///
    /// # Errors
    /// If the event cannot be recorded; the run ends with [`Error::Sink`](crate::Error::Sink).
    fn event(&mut self, event: &Event) -> Result<(), BoxError>;
}

impl<F: FnMut(&Event) -> Result<(), BoxError> + Send> EventSink for F {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        self(event)
    }
}
