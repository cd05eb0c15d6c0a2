use std::io::ErrorKind;
use std::path::PathBuf;

use crate::Difference;
use crate::names::listed;

/// An error from code that the engine calls: a task, a batch source or a sink.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate. Steps are counted from 1, as in logs and checkpoint names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // What the caller asked for.
    /// Training arguments that make no sense; all of them.
    #[error("invalid training arguments: {}", issues.join("; "))]
    Arguments {
        /// One sentence an issue, which begins with the name of its argument.
        issues: Vec<String>,
    },
    /// There is nothing to train.
    #[error("no trainable parameters; was every layer of the model built frozen?")]
    NoParameters,
    /// A trainable parameter that is not stored as f32.
    #[error(
        "trainable parameter {name} is {dtype:?}; trainable parameters must be F32, whatever the base is"
    )]
    ParameterDtype {
        /// Name of the parameter.
        name: String,
        /// Its data type.
        dtype: candle_core::DType,
    },
    /// One variable under two names would be updated twice.
    #[error("trainable parameters {first} and {second} are the same variable; register it once")]
    SharedParameter {
        /// The first of the two names.
        first: String,
        /// The second of the two names.
        second: String,
    },
    /// A source without batches.
    #[error("the {role} data has no batches")]
    NoBatches {
        /// `training` or `evaluation`.
        role: &'static str,
    },
    /// Evaluation was asked for without data for it.
    #[error(
        "eval_strategy is {strategy} but there is no evaluation data; pass some, or set eval_strategy to no"
    )]
    NoEvaluationData {
        /// The strategy.
        strategy: crate::IntervalStrategy,
    },

    /// A group of parameters that is empty.
    #[error(
        "parameter group `{name_contains}` has no parameter that is not in an earlier group; the names are {}",
        listed(names, ", ")
    )]
    EmptyGroup {
        /// The text that names of the group contain.
        name_contains: String,
        /// The names of all parameters.
        names: Vec<String>,
    },
    /// An optimizer was given a gradient of a parameter that it has no state for.
    #[error("the optimizer was not made for the parameter `{0}`; make one for all that are trained")]
    UnknownParameter(String),
    /// An optimizer was given a parameter, or a gradient, of another shape than it was made for.
    #[error(
        "the optimizer was made for the parameter `{name}` of shape {expected:?}, and was given shape {got:?}"
    )]
    ParameterShape {
        /// Name of the parameter.
        name: String,
        /// The shape that the optimizer has state for.
        expected: Vec<usize>,
        /// The other shape.
        got: Vec<usize>,
    },
    /// The metric for the best model is not one that the task measures.
    #[error("metric_for_best_model is {name}, which an evaluation does not measure; it measures {}", known.join(", "))]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names of all metrics.
        known: Vec<String>,
    },

    // What the task, the data and the sinks did.
    /// The task failed on a batch.
    #[error("step {step}: {source} (batch: {batch})")]
    Task {
        /// The optimizer step.
        step: usize,
        /// The task's description of the batch.
        batch: String,
        /// The task's error.
        source: BoxError,
    },
    /// The task failed on a batch of an evaluation.
    #[error("evaluation: {source} (batch: {batch})")]
    Evaluation {
        /// The task's description of the batch.
        batch: String,
        /// The task's error.
        source: BoxError,
    },
    /// The task could not save its model.
    #[error("cannot save the model to {}: {source}", path.display())]
    SaveModel {
        /// Directory that the task was asked to write to.
        path: PathBuf,
        /// The task's error.
        source: BoxError,
    },
    /// A source could not produce a batch.
    #[error("{role} data, epoch {epoch}, batch {batch}: {source}")]
    Data {
        /// `training` or `evaluation`.
        role: &'static str,
        /// Epoch, from 0.
        epoch: usize,
        /// Index of the batch in its epoch, from 0.
        batch: usize,
        /// The source's error.
        source: BoxError,
    },
    /// A source ended its epoch before the number of batches that it had announced.
    #[error("{role} data, epoch {epoch}: ended after {got} of the {expected} batches it announced")]
    ShortEpoch {
        /// `training` or `evaluation`.
        role: &'static str,
        /// Epoch, from 0.
        epoch: usize,
        /// Batches announced.
        expected: usize,
        /// Batches delivered.
        got: usize,
    },
    /// The gradients could not be summed over the workers.
    #[error(
        "step {step}: cannot sum gradients over workers: {source}; resume all of them from their checkpoints"
    )]
    Workers {
        /// The optimizer step.
        step: usize,
        /// The error of the workers.
        source: BoxError,
    },
    /// A sink could not take an event.
    #[error("cannot record training events: {source}")]
    Sink {
        /// The sink's error.
        source: BoxError,
    },

    // What the numbers say.
    /// The loss is not one number.
    #[error("step {step}: the loss must be a scalar, the sum over all targets; its shape is {shape:?}")]
    LossShape {
        /// The optimizer step.
        step: usize,
        /// The shape that the task returned.
        shape: Vec<usize>,
    },
    /// No batch of the step, or of the evaluation, had a target to learn from.
    #[error("{place}: not one target in {}; are all labels masked?", batches.join("; "))]
    NoTargets {
        /// `step N` or `evaluation`.
        place: String,
        /// The task's descriptions of the batches.
        batches: Vec<String>,
    },
    /// Trainable parameters that the loss does not reach.
    #[error(
        "step {step}: no gradient reached {}; an operation between them and the loss is not differentiable, \
         or they are not used (nothing was updated)",
        listed(names, ", ")
    )]
    MissingGradients {
        /// The optimizer step.
        step: usize,
        /// All parameters without a gradient.
        names: Vec<String>,
    },
    /// The loss or the gradient norm is NaN or infinite. The step was not taken.
    /// [`OnNan::Skip`](crate::OnNan::Skip) passes over such steps.
    #[error(
        "step {step}: the {quantity} is {value} at learning rate {learning_rate:e} (batch: {}); nothing was updated; \
         look at this batch, or lower the learning rate; {}",
        batches.join("; "),
        last_good(checkpoint)
    )]
    NonFinite {
        /// The optimizer step.
        step: usize,
        /// `loss of micro-batch N`, `loss of micro-batches N to M` or `gradient norm`.
        quantity: String,
        /// Its value.
        value: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// The task's descriptions of the batches that the quantity came from.
        batches: Vec<String>,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },

    /// More steps were not finite than [`max_skipped_steps`](crate::TrainingArguments::max_skipped_steps) allows.
    #[error(
        "{skipped} steps were skipped already, and no more may be; {reason}; nothing was updated; look at this batch, \
         or lower the learning rate; {}",
        last_good(checkpoint)
    )]
    TooManySkipped {
        /// Steps skipped before this one.
        skipped: usize,
        /// What was not finite in this one, at which learning rate, and in which batches.
        reason: String,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },

    // Files.
    /// The output directory cannot be written to.
    #[error("cannot write to the output directory {}: {source}", path.display())]
    OutputDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint, or the record of the run, could not be saved.
    #[error(
        "cannot save the state of step {step}: {source}; what was saved before is as it was: {}{}",
        last_good(checkpoint),
        room(source)
    )]
    Save {
        /// The optimizer step.
        step: usize,
        /// Why.
        source: Box<Error>,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint that is incomplete, damaged, or written for something else.
    #[error("cannot resume from {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint of another run than the one that is to be resumed from it.
    #[error(
        "cannot resume from {}, as the run would not be the same: {}",
        path.display(),
        differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
    )]
    AnotherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Everything that decides the run's numbers and differs.
        differences: Vec<Difference>,
    },
    /// A new run in a directory with checkpoints.
    #[error(
        "the output directory {} holds checkpoints of an earlier run: {}; resume it, choose another directory, or set \
         overwrite_output_dir",
        path.display(),
        listed(&names(paths), ", ")
    )]
    EarlierCheckpoints {
        /// The output directory.
        path: PathBuf,
        /// The checkpoints.
        paths: Vec<PathBuf>,
    },
    /// Directories that have the names of checkpoints and are not the run's own, so that it can neither replace nor keep them.
    #[error(
        "{} in the output directory {} {} not of this run: move {} away, or choose another directory",
        listed(&names(paths), ", "),
        path.display(),
        if paths.len() == 1 { "is" } else { "are" },
        if paths.len() == 1 { "it" } else { "them" }
    )]
    ForeignCheckpoints {
        /// The output directory.
        path: PathBuf,
        /// The directories.
        paths: Vec<PathBuf>,
    },
    /// A checkpoint that cannot be removed, as there is something in it that no run wrote.
    #[error("{} holds files that no run wrote: {}", path.display(), listed(names, ", "))]
    ForeignFiles {
        /// The checkpoint.
        path: PathBuf,
        /// The files, relative to it.
        names: Vec<String>,
    },
    /// Resuming was asked for and there is nothing to resume from.
    #[error(
        "no usable checkpoint in {}{}; start without resuming, or name a checkpoint",
        path.display(),
        list_damaged(damaged)
    )]
    NoCheckpoint {
        /// The output directory.
        path: PathBuf,
        /// The checkpoints that are there but cannot be used, and why.
        damaged: Vec<String>,
    },
    /// A file of tensors does not hold exactly the tensors that are wanted.
    #[error("{}: {}", path.display(), listed(problems, "; "))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Every missing, unexpected and misshapen tensor.
        problems: Vec<String>,
    },

    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("last good checkpoint: {}", path.display()),
        None => "no checkpoint was saved yet".to_owned(),
    }
}

/// What to do if a file could not be saved for want of room.
fn room(source: &Error) -> &'static str {
    let Error::Io { source, .. } = source else { return "" };
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; make room, and resume from it"
        }
        _ => "",
    }
}

/// The last part of each path.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    paths.iter().map(name).collect()
}

fn list_damaged(damaged: &[String]) -> String {
    if damaged.is_empty() { String::new() } else { format!(" ({})", damaged.join("; ")) }
}
