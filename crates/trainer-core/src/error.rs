use std::io::ErrorKind;
use std::path::PathBuf;

use crate::Difference;
use crate::text::listed;

/// An error from code that the engine calls: a task, a batch source, a sink. It becomes the source of an
/// [`enum@Error`] that names the place.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The errors of this crate. Steps are counted from 1, as in logs and checkpoint names.
///
/// A message does not repeat its cause, which is the error's [`source`](std::error::Error::source): print the whole chain,
/// as `anyhow` does with `{:#}`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Arguments, parameters and data.
    /// Invalid training arguments; all of them.
    #[error("invalid training arguments: {}", issues.join("; "))]
    Arguments {
        /// One sentence per issue; each begins with the name of its argument.
        issues: Vec<String>,
    },
    /// There is nothing to train.
    #[error("no trainable parameters; was every layer of the model built frozen?")]
    NoParameters,
    /// A trainable parameter that is not f32.
    #[error(
        "trainable parameter {name} is {dtype:?}; trainable parameters must be F32, even if the frozen weights are not"
    )]
    ParameterDtype {
        /// Name of the parameter.
        name: String,
        /// Its data type.
        dtype: candle_core::DType,
    },
    /// A name that occurs twice.
    #[error("two trainable parameters are named {name}")]
    DuplicateParameter {
        /// The name.
        name: String,
    },
    /// A variable with two names, which would be updated twice.
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
    /// Evaluation was requested without evaluation data.
    #[error(
        "eval_strategy is {strategy} but there is no evaluation data; pass some, or set eval_strategy to no"
    )]
    NoEvaluationData {
        /// The strategy.
        strategy: crate::IntervalStrategy,
    },

    /// A parameter group without parameters.
    #[error(
        "parameter group `{name_contains}` has no parameter that is not in an earlier group; the names are {}",
        listed(names, ", ")
    )]
    EmptyGroup {
        /// The text that the names in the group should contain.
        name_contains: String,
        /// The names of all parameters.
        names: Vec<String>,
    },
    /// A gradient of a parameter that the optimizer was not created for.
    #[error(
        "the optimizer was not created for the parameter `{name}`; create one for all trainable parameters"
    )]
    UnknownParameter {
        /// Name of the parameter.
        name: String,
    },
    /// A parameter or gradient whose shape is not the one that the optimizer was created for.
    #[error("the optimizer expects shape {expected:?} for the parameter `{name}`, got {got:?}")]
    ParameterShape {
        /// Name of the parameter.
        name: String,
        /// The shape that the optimizer was created for.
        expected: Vec<usize>,
        /// The other shape.
        got: Vec<usize>,
    },
    /// A state whose tensors are not those of the optimizer.
    #[error("the state does not fit the optimizer: {}", listed(problems, "; "))]
    OptimizerState {
        /// All missing, unexpected and misshapen tensors.
        problems: Vec<String>,
    },
    /// An optimizer of the caller failed.
    #[error("the optimizer failed")]
    Optimizer {
        /// The optimizer's error.
        source: BoxError,
    },
    /// A schedule of the caller returned a learning rate that is negative or not finite.
    #[error(
        "step {step}: the schedule `{schedule}` returned the learning rate {value}, which must be at least 0"
    )]
    LearningRate {
        /// The optimizer step.
        step: usize,
        /// Name of the schedule.
        schedule: String,
        /// The learning rate.
        value: f64,
    },
    /// The metric for the best model is not one of the task's.
    #[error("metric_for_best_model is {name}, but the metrics of an evaluation are {}", known.join(", "))]
    UnknownMetric {
        /// The requested name.
        name: String,
        /// The names of all metrics.
        known: Vec<String>,
    },

    // Tasks, data sources, workers and sinks.
    /// The task failed on a batch.
    #[error("step {step}: the task failed (batch: {batch})")]
    Task {
        /// The optimizer step.
        step: usize,
        /// The task's description of the batch.
        batch: String,
        /// The task's error.
        source: BoxError,
    },
    /// The task failed on a batch of an evaluation.
    #[error("evaluation: the task failed (batch: {batch})")]
    Evaluation {
        /// The task's description of the batch.
        batch: String,
        /// The task's error.
        source: BoxError,
    },
    /// The task could not save its model.
    #[error("the task cannot save its model to {}", path.display())]
    SaveModel {
        /// The target directory.
        path: PathBuf,
        /// The task's error.
        source: BoxError,
    },
    /// A source could not yield a batch.
    #[error("cannot load batch {batch} of the {role} data in epoch {epoch}")]
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
    /// A source ended an epoch early.
    #[error("the {role} data ended after {got} of {expected} batches in epoch {epoch}")]
    ShortEpoch {
        /// `training` or `evaluation`.
        role: &'static str,
        /// Epoch, from 0.
        epoch: usize,
        /// Number of batches according to the source.
        expected: usize,
        /// Number of batches it yielded.
        got: usize,
    },
    /// The connection to a worker is lost, or the worker has ended with an error.
    #[error(
        "the workers cannot continue together; the newest checkpoint resumes the run, with any number of workers"
    )]
    Workers {
        /// The error of the connection; it names the worker.
        source: BoxError,
    },
    /// The GPUs of several workers cannot be connected by NCCL, or a transfer failed.
    #[error(
        "NCCL: {call}: {reason}; each worker needs an NVIDIA GPU of its own, and with NCCL_DEBUG=INFO in its environment NCCL says more"
    )]
    Nccl {
        /// The function of NCCL that failed, or what was expected.
        call: &'static str,
        /// The name of the error code, or what is wrong.
        reason: String,
    },
    /// A worker was started with another run.
    #[error("worker {rank} has another run than worker 0: {}", differences.join("; "))]
    OtherRun {
        /// The worker.
        rank: usize,
        /// Everything that differs, in clauses with both values.
        differences: Vec<String>,
    },
    /// Workers that should be equal are not. No checkpoint was saved.
    #[error(
        "after step {step} the parameters of worker {rank} are not those of worker 0; processors with different instruction \
         sets may round differently"
    )]
    UnequalWorkers {
        /// Number of completed steps.
        step: usize,
        /// The first worker that differs.
        rank: usize,
    },
    /// A sink failed.
    #[error("cannot record training events")]
    Sink {
        /// The sink's error.
        source: BoxError,
    },

    // Losses and gradients.
    /// The loss is not a scalar.
    #[error("step {step}: the loss must be a scalar, the sum over all targets; its shape is {shape:?}")]
    LossShape {
        /// The optimizer step.
        step: usize,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A step or an evaluation without targets.
    #[error("{place}: no targets in {}; are all labels masked?", batches.join("; "))]
    NoTargets {
        /// `step N` or `evaluation`.
        place: String,
        /// The task's descriptions of the batches.
        batches: Vec<String>,
    },
    /// Trainable parameters without a gradient.
    #[error(
        "step {step}: no gradient reached {}; nothing was updated. Either the loss does not depend on them, or an \
         operation between them and the loss has no backward pass. {}",
        listed(names, ", "),
        NO_BACKWARD_PASS
    )]
    MissingGradients {
        /// The optimizer step.
        step: usize,
        /// All parameters without a gradient.
        names: Vec<String>,
    },
    /// The loss or the gradient norm is NaN or infinite. The step was not taken.
    /// [`OnNan::Skip`](crate::OnNan::Skip) skips such steps instead.
    #[error(
        "step {step}: the {quantity} is {value} at learning rate {learning_rate:e} (batch: {}); nothing was updated; \
         inspect this batch, or lower the learning rate; {}",
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
        /// The task's descriptions of the batches that the quantity was computed from.
        batches: Vec<String>,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },

    /// A step that would have been skipped, but [`max_skipped_steps`](crate::TrainingArguments::max_skipped_steps) were
    /// already.
    #[error(
        "the limit of skipped steps ({skipped}) is reached; {reason}; nothing was updated; inspect this \
         batch, or lower the learning rate; {}",
        last_good(checkpoint)
    )]
    TooManySkipped {
        /// Number of steps skipped before this one.
        skipped: usize,
        /// The quantity that is not finite, with the learning rate and the batches.
        reason: String,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },

    // Files.
    /// The output directory cannot be written to.
    #[error("cannot write to the output directory {}", path.display())]
    OutputDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation: `read`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A checkpoint, or the run's `trainer_state.json`, could not be saved.
    #[error(
        "cannot save the state of step {step}; earlier checkpoints are intact; {}{}",
        last_good(checkpoint),
        room(source)
    )]
    Save {
        /// The optimizer step.
        step: usize,
        /// The cause.
        source: Box<Error>,
        /// The newest checkpoint of this run.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint that is incomplete, damaged, or of an unknown run.
    #[error("cannot resume from {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A checkpoint of a different run.
    #[error(
        "cannot resume from {}, as the run would not be the same: {}",
        path.display(),
        differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
    )]
    AnotherRun {
        /// The checkpoint.
        path: PathBuf,
        /// All differences that would change the run's numbers.
        differences: Vec<Difference>,
    },
    /// A new run in a directory that has checkpoints.
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
    /// Directories with the names of checkpoints that are not this run's; it must neither replace nor delete them.
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
    /// A checkpoint that must not be deleted because it contains files that no run wrote.
    #[error("{} holds files that no run wrote, so it is not removed: move them elsewhere, or choose another output folder ({})", path.display(), listed(names, ", "))]
    ForeignFiles {
        /// The checkpoint.
        path: PathBuf,
        /// The files, relative to it.
        names: Vec<String>,
    },
    /// There is no checkpoint to resume from.
    #[error(
        "no usable checkpoint in {}{}; start without resuming, or name a checkpoint",
        path.display(),
        list_damaged(damaged)
    )]
    NoCheckpoint {
        /// The output directory.
        path: PathBuf,
        /// The unusable checkpoints, each with the reason.
        damaged: Vec<String>,
    },
    /// A safetensors file whose tensors are not exactly the expected ones.
    #[error("{}: {}", path.display(), listed(problems, "; "))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// All missing, unexpected and misshapen tensors.
        problems: Vec<String>,
    },

    /// The kernels' instruction set cannot be selected.
    #[error(transparent)]
    Isa(#[from] cpu_kernels::Error),
    /// A candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The usual reasons for a missing gradient, with their differentiable replacements.
const NO_BACKWARD_PASS: &str = "In candle-nn these are LayerNorm and ops::layer_norm (use ops::layer_norm_slow), RmsNorm \
    and ops::rms_norm (RmsNorm::forward_diff), ops::softmax_last_dim (ops::softmax), rope and rope_i (rope_slow, \
    rope_i_slow), and ops::sdpa (matmul and ops::softmax)";

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("last good checkpoint: {}", path.display()),
        None => "no checkpoint was saved yet".to_owned(),
    }
}

/// Advice for an error caused by a full disk.
fn room(source: &Error) -> &'static str {
    let Error::Io { source, .. } = source else { return "" };
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; make room, and resume from it"
        }
        _ => "",
    }
}

/// The last component of each path.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    paths.iter().map(name).collect()
}

fn list_damaged(damaged: &[String]) -> String {
    if damaged.is_empty() { String::new() } else { format!(" ({})", damaged.join("; ")) }
}
