use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::names::listed;
use crate::{BoxError, LogEntry, Metric};

/// Something that happened in a run. The engine reports everything so, and prints nothing.
///
/// As JSON an event is an object with its kind under `event`, in snake case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Training begins. Everything that can fail before the first step has been tried.
    Started {
        /// The run's name, which no other run has, and which it keeps when it is resumed.
        run: String,
        /// Trainable numbers.
        trainable_parameters: usize,
        /// Steps already made by the run that is resumed, else 0.
        global_step: usize,
        /// Steps in all.
        max_steps: usize,
        /// Steps an epoch.
        steps_per_epoch: usize,
    },
    /// The state of a checkpoint was restored.
    Resumed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Steps it had made.
        global_step: usize,
    },
    /// An optimizer step was made.
    Step(StepReport),
    /// An entry was added to the log.
    Log(LogEntry),
    /// How fast the run is; follows every entry of the training log.
    Throughput(Throughput),
    /// An evaluation begins.
    EvaluationStarted {
        /// Steps made.
        global_step: usize,
        /// Batches to evaluate.
        batches: usize,
    },
    /// A checkpoint is complete.
    CheckpointSaved {
        /// Its directory.
        path: PathBuf,
        /// Steps made.
        global_step: usize,
        /// Whether it has the best evaluation so far.
        best: bool,
    },
    /// A checkpoint was removed, as more were kept than asked for.
    CheckpointRemoved {
        /// Its directory.
        path: PathBuf,
    },
    /// The parameters of the best checkpoint were loaded.
    BestLoaded {
        /// Its directory.
        path: PathBuf,
        /// The metric that says which is the best.
        metric: &'static str,
        /// Its value.
        value: f64,
    },
    /// The run stopped on request; it can be resumed from the checkpoint.
    Interrupted {
        /// Directory of the checkpoint.
        checkpoint: PathBuf,
        /// Steps made.
        global_step: usize,
    },
    /// The run ends before all its steps were made, and not to be continued.
    StoppedEarly {
        /// Steps made.
        global_step: usize,
        /// Why.
        reason: String,
    },
    /// The run is over.
    Finished {
        /// Steps made.
        global_step: usize,
    },
    /// Something that may not be what the user wants, and does not stop the run.
    Warning(Warning),
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps made, this one included.
    pub global_step: usize,
    /// Steps in all.
    pub max_steps: usize,
    /// Epochs made, as a fraction.
    pub epoch: f64,
    /// Mean loss of the step's targets.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Samples that the step learned from.
    pub samples: usize,
    /// Targets that the step learned from, such as tokens.
    pub targets: usize,
    /// Seconds that the step took, with the wait for its batches.
    pub seconds: f64,
}

/// How fast the steps since the last such report were, evaluations and checkpoints not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Steps made.
    pub global_step: usize,
    /// Samples a second.
    pub samples_per_second: f64,
    /// Targets a second.
    pub tokens_per_second: f64,
    /// Memory that the process has in use, in bytes, where the system tells.
    pub memory: Option<u64>,
}

impl Throughput {
    /// The numbers with their metrics.
    pub fn values(&self) -> Vec<(Metric, f64)> {
        let mut values = vec![
            (Metric::SAMPLES_PER_SECOND, self.samples_per_second),
            (Metric::TOKENS_PER_SECOND, self.tokens_per_second),
        ];
        values.extend(self.memory.map(|bytes| (Metric::MEMORY, bytes as f64)));
        values
    }
}

/// Something that may not be what the user wants. [`Display`](fmt::Display) says it in a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// Parameters whose gradients have been exactly zero in every step so far.
    ZeroGradients {
        /// Their names.
        names: Vec<String>,
    },
    /// Parameters that are what they were before the first step, to the last bit.
    ParametersUnchanged {
        /// Their names.
        names: Vec<String>,
        /// Whether these are all.
        all: bool,
    },
    /// A step was not taken, as its loss or gradient norm was not finite.
    StepSkipped {
        /// The step, from 1.
        step: usize,
        /// Steps skipped so far, this one included.
        skipped: usize,
        /// Steps that may be skipped.
        limit: usize,
        /// What was not finite, at which learning rate, and in which batches.
        reason: String,
    },
    /// The loss of an evaluation, or the metric that says which is the best, is NaN or infinite. It never counts as the
    /// best.
    EvaluationNotFinite {
        /// Steps made.
        global_step: usize,
        /// What is not finite.
        metric: &'static str,
    },
    /// A newer checkpoint was passed over.
    CheckpointSkipped {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The resumed run had other arguments.
    ArgumentsChanged {
        /// Every argument that is another one now.
        changes: Vec<ArgumentChange>,
    },
    /// The best checkpoint of the resumed run is gone or damaged, or another one is in its place; a new best is looked
    /// for.
    BestCheckpointMissing {
        /// Its directory.
        path: PathBuf,
    },
    /// The best evaluation of the resumed run is of no use to it with its new arguments; a new best is looked for.
    BestForgotten {
        /// Why.
        reason: String,
    },
    /// The best parameters could not be loaded at the end, which is with the last ones.
    BestNotLoaded {
        /// Directory of the best checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that is no longer kept could not be removed.
    CheckpointNotRemoved {
        /// Its directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroGradients { names } => {
                write!(
                    f,
                    "the gradient has been exactly zero in every step so far, so these do not learn: {}",
                    listed(names, ", ")
                )
            }
            Self::ParametersUnchanged { all: true, .. } => {
                f.write_str(
                    "training changed nothing: every parameter is what it was before the first step; is the learning \
                     rate 0?",
                )
            }
            Self::ParametersUnchanged { names, .. } => {
                write!(f, "these parameters are what they were before the first step: {}", listed(names, ", "))
            }
            Self::StepSkipped { skipped, limit, reason, .. } => {
                write!(f, "skipped, {skipped} of at most {limit}: {reason}")
            }
            Self::EvaluationNotFinite { global_step, metric } => {
                write!(
                    f,
                    "the {metric} of the evaluation after step {global_step} is not finite; it does not count as the best"
                )
            }
            Self::CheckpointSkipped { path, reason } => write!(f, "skipped {}: {reason}", path.display()),
            Self::ArgumentsChanged { changes } => {
                let changes: Vec<_> = changes.iter().map(ArgumentChange::to_string).collect();
                write!(f, "the run continues with changed arguments: {}", changes.join(", "))
            }
            Self::BestCheckpointMissing { path } => {
                write!(
                    f,
                    "the best checkpoint of the resumed run, {}, is gone, damaged or another run's; looking for a new \
                     best",
                    path.display()
                )
            }
            Self::BestForgotten { reason } => write!(f, "looking for a new best: {reason}"),
            Self::BestNotLoaded { path, reason } => {
                write!(
                    f,
                    "the parameters are those of the last step, as the best ones cannot be loaded from {}: {reason}",
                    path.display()
                )
            }
            Self::CheckpointNotRemoved { path, reason } => {
                write!(f, "cannot remove {}: {reason}", path.display())
            }
        }
    }
}

/// An argument that a resumed run has another value of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArgumentChange {
    /// Its name in [`TrainingArguments`](crate::TrainingArguments), as `lr_scheduler_kwargs.power` where it is part of another.
    pub name: String,
    /// The value that the checkpoint was saved with; `none` where there was none.
    pub saved: String,
    /// The value now.
    pub now: String,
}

impl fmt::Display for ArgumentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.saved, self.now)
    }
}

/// Takes the events of a run: shows, writes or collects them.
///
/// An error stops the run, as a log that silently misses entries is worse. Closures are sinks:
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
pub trait EventSink {
    /// Takes one event. Events come in the order in which things happened.
    fn event(&mut self, event: &Event) -> Result<(), BoxError>;
}

impl<F: FnMut(&Event) -> Result<(), BoxError>> EventSink for F {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        self(event)
    }
}
