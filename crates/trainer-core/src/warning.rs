use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::text::listed;

/// Something that is probably not as intended. [`Display`](fmt::Display) describes it in a sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// Parameters whose gradients were exactly zero in every step so far.
    ZeroGradients {
        /// Their names.
        names: Vec<String>,
    },
    /// Parameters that training did not change by a single bit.
    ParametersUnchanged {
        /// Their names.
        names: Vec<String>,
        /// Whether these are all trainable parameters.
        all: bool,
    },
    /// A step was not taken because its loss or gradient norm is not finite.
    StepSkipped {
        /// The step, from 1.
        step: usize,
        /// Number of skipped steps, including this one.
        skipped: usize,
        /// Maximum number of skipped steps.
        limit: usize,
        /// The quantity that is not finite, with the learning rate and the batches.
        reason: String,
    },
    /// The loss of an evaluation, or the metric that selects the best, is NaN or infinite. It cannot be the best.
    EvaluationNotFinite {
        /// Number of completed steps.
        global_step: usize,
        /// The loss or metric that is not finite.
        metric: String,
    },
    /// A newer checkpoint is damaged; an older one is resumed.
    CheckpointSkipped {
        /// Its directory.
        path: PathBuf,
        /// The damage.
        reason: String,
    },
    /// The arguments differ from those of the resumed run.
    ArgumentsChanged {
        /// All changed arguments.
        changes: Vec<ArgumentChange>,
    },
    /// The best checkpoint of the resumed run is missing or damaged, or belongs to a different run. The next evaluation
    /// counts as the first.
    BestCheckpointMissing {
        /// Its directory.
        path: PathBuf,
    },
    /// The best evaluation of the resumed run cannot be used with the new arguments. The next evaluation counts as the
    /// first.
    BestForgotten {
        /// The reason.
        reason: String,
    },
    /// The best parameters could not be loaded at the end. The run ends with the last ones.
    BestNotLoaded {
        /// Directory of the best checkpoint.
        path: PathBuf,
        /// The damage.
        reason: String,
    },
    /// A checkpoint beyond `save_total_limit` could not be deleted.
    CheckpointNotRemoved {
        /// Its directory.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Launches on a device could not be recorded as a graph. They run one after the other, with the same results in more time.
    GraphNotRecorded {
        /// The launches, such as "training passes of 8 captions with 16 tokens".
        work: String,
        /// The error.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroGradients { names } => {
                write!(
                    f,
                    "the gradient was exactly zero in every step so far, so these do not learn: {}",
                    listed(names, ", ")
                )
            }
            Self::ParametersUnchanged { all: true, .. } => f.write_str(
                "training changed nothing: every parameter has its initial value; is the learning rate 0?",
            ),
            Self::ParametersUnchanged { names, .. } => {
                write!(
                    f,
                    "{} still {} initial values, which after few steps need not be wrong, because a warm-up begins at \
                     learning rate 0",
                    parameters(names),
                    if names.len() == 1 { "has its" } else { "have their" }
                )
            }
            Self::StepSkipped { skipped, limit, reason, .. } => {
                write!(f, "skipped, {skipped} of at most {limit}: {reason}")
            }
            Self::EvaluationNotFinite { global_step, metric } => {
                write!(
                    f,
                    "the {metric} of the evaluation after step {global_step} is not finite; it cannot be the best"
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
                    "the best checkpoint of the resumed run, {}, is missing, damaged or of a different run; the next \
                     evaluation counts as the first",
                    path.display()
                )
            }
            Self::BestForgotten { reason } => write!(f, "the next evaluation counts as the first: {reason}"),
            Self::BestNotLoaded { path, reason } => {
                write!(
                    f,
                    "the parameters are those of the last step: the best ones cannot be loaded from {}: {reason}",
                    path.display()
                )
            }
            Self::CheckpointNotRemoved { path, reason } => {
                write!(f, "cannot remove {}: {reason}", path.display())
            }
            Self::GraphNotRecorded { work, reason } => {
                write!(f, "{work} run without a CUDA graph, with the same results in more time: {reason}")
            }
        }
    }
}

/// An argument whose value differs from that of the resumed run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgumentChange {
    /// Its name in [`TrainingArguments`](crate::TrainingArguments), such as `seed` or `lr_scheduler_kwargs.power`.
    pub name: String,
    /// The value in the checkpoint; `none` if it was not set.
    pub saved: String,
    /// The current value; `none` if it is not set.
    pub now: String,
}

impl fmt::Display for ArgumentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.saved, self.now)
    }
}

/// Describes parameters by their number and the first name, because after a short run these may be nearly all
/// of the model's parameters.
fn parameters(names: &[String]) -> String {
    match names {
        [] => "no parameter".to_owned(),
        [name] => format!("the parameter {name}"),
        [first, ..] => format!("{} parameters, such as {first},", names.len()),
    }
}
