use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{OptimizerType, ParameterGroup, SchedulerOptions, SchedulerType};

/// Hyperparameters and settings of a run, with the names and defaults of Hugging Face's `TrainingArguments`. All steps are
/// optimizer steps.
///
/// ```
/// use trainer_core::TrainingArguments;
///
/// let arguments = TrainingArguments { learning_rate: -1.0, logging_steps: 0, ..TrainingArguments::new("run") };
/// let error = arguments.validate().unwrap_err().to_string();
/// assert!(error.contains("learning_rate") && error.contains("logging_steps"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingArguments {
    /// Directory for checkpoints and `trainer_state.json`. Default `trainer_output`.
    pub output_dir: PathBuf,
    /// Whether a new run may delete the checkpoints of an earlier run in `output_dir`; otherwise they are an error. No
    /// effect on a resumed run. Default false.
    pub overwrite_output_dir: bool,
    /// Number of passes over the training data; may be fractional. Ignored if `max_steps` is set. Default 3.
    pub num_train_epochs: f64,
    /// Total number of steps. Default: as many as `num_train_epochs` takes.
    pub max_steps: Option<usize>,
    /// Peak learning rate. Default 5e-5.
    pub learning_rate: f64,
    /// Shape of the learning-rate schedule. Default linear.
    pub lr_scheduler_type: SchedulerType,
    /// Further options of the schedule, such as its final learning rate.
    pub lr_scheduler_kwargs: SchedulerOptions,
    /// Share of all steps, rounded up, during which the learning rate rises linearly from 0. Default 0.
    pub warmup_ratio: f64,
    /// Number of micro-batches whose gradients are summed in one step. Default 1.
    pub gradient_accumulation_steps: usize,
    /// Maximum number of micro-batches to merge into one forward and backward pass with
    /// [`Task::merge`](crate::Task::merge): the same step up to rounding, with larger matrix products and more memory.
    /// Default 1.
    pub fused_micro_batches: usize,
    /// Maximum global norm of the gradients, which are scaled down to it; 0 turns clipping off. Default 1.
    pub max_grad_norm: f64,
    /// Optimizer. Default AdamW.
    pub optim: OptimizerType,
    /// Weight decay: decoupled in AdamW, added to the gradient in SGD. As in transformers, parameters of one dimension
    /// (biases and weights of norms) do not decay. Default 0.
    pub weight_decay: f64,
    /// Parameters with their own learning rate or weight decay. If several groups match a name, the first one counts.
    /// Default: none.
    pub parameter_groups: Vec<ParameterGroup>,
    /// SGD's momentum. Default 0.
    pub sgd_momentum: f64,
    /// Decay rate of AdamW's running mean of gradients. Default 0.9.
    pub adam_beta1: f64,
    /// Decay rate of AdamW's running mean of squared gradients. Default 0.999.
    pub adam_beta2: f64,
    /// Term added to AdamW's denominator; above 0, also as f32. Default 1e-8.
    pub adam_epsilon: f64,
    /// The response to a step whose loss or gradient norm is not finite. Default: stop the run.
    pub on_nan: OnNan,
    /// Maximum number of skipped steps if `on_nan` is `skip`; one more stops the run. Default 10.
    pub max_skipped_steps: usize,
    /// Time limit in seconds of training, including the time before a resume. Afterwards the run ends as if it had
    /// completed all steps. Default: none.
    pub max_seconds: Option<f64>,
    /// When to evaluate. Default: never.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations if `eval_strategy` is `steps`. Default 500.
    pub eval_steps: usize,
    /// When to save a checkpoint. Default: every `save_steps` steps.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints if `save_strategy` is `steps`. Default 500.
    pub save_steps: usize,
    /// Number of checkpoints to keep besides the newest and the best, which are never deleted. Default: all.
    pub save_total_limit: Option<usize>,
    /// Steps between entries of the training log. Default 500.
    pub logging_steps: usize,
    /// Whether to end with the parameters of the best evaluation instead of the last ones. Every evaluation that improves
    /// on the best is then saved, independently of `save_strategy`. Default false.
    pub load_best_model_at_end: bool,
    /// Metric that selects the best evaluation, with or without the prefix `eval_`. Each metric defines whether higher or
    /// lower is better. Default `loss`.
    pub metric_for_best_model: String,
    /// Number of evaluations in a row without improvement after which the run ends. Default: no early stopping.
    pub early_stopping_patience: Option<usize>,
    /// Minimum improvement on the best evaluation that resets the patience. Default 0.
    pub early_stopping_threshold: f64,
    /// Seed of everything that the task draws at random. Default 42.
    pub seed: u64,
}

impl TrainingArguments {
    /// Default arguments with this output directory, for use in `TrainingArguments { …, ..TrainingArguments::new("run") }`.
    pub fn new(output_dir: impl Into<PathBuf>) -> Self {
        Self { output_dir: output_dir.into(), ..Self::default() }
    }

    /// The metric that selects the best evaluation, without the prefix `eval_`.
    pub(crate) fn best_metric_name(&self) -> &str {
        let name = &self.metric_for_best_model;
        name.strip_prefix("eval_").unwrap_or(name)
    }
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            output_dir: PathBuf::from("trainer_output"),
            overwrite_output_dir: false,
            num_train_epochs: 3.0,
            max_steps: None,
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::Linear,
            lr_scheduler_kwargs: SchedulerOptions::default(),
            warmup_ratio: 0.0,
            gradient_accumulation_steps: 1,
            fused_micro_batches: 1,
            max_grad_norm: 1.0,
            optim: OptimizerType::AdamW,
            weight_decay: 0.0,
            parameter_groups: Vec::new(),
            sgd_momentum: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            on_nan: OnNan::Stop,
            max_skipped_steps: 10,
            max_seconds: None,
            eval_strategy: IntervalStrategy::No,
            eval_steps: 500,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500,
            save_total_limit: None,
            logging_steps: 500,
            load_best_model_at_end: false,
            metric_for_best_model: "loss".to_owned(),
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            seed: 42,
        }
    }
}

/// When to evaluate or to save. Unless it is never, the run also does so after its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalStrategy {
    /// Never.
    No,
    /// Every fixed number of optimizer steps.
    Steps,
    /// After every epoch.
    Epoch,
}

impl fmt::Display for IntervalStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Steps => "steps",
            Self::Epoch => "epoch",
        })
    }
}

/// The response to a step whose loss or gradient norm is NaN or infinite. Its gradients are never applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNan {
    /// End the run with an error that names the step, its batches, the learning rate and the last good checkpoint.
    #[default]
    Stop,
    /// Count the step, change nothing, and emit a [`Warning::StepSkipped`](crate::Warning::StepSkipped).
    Skip,
}
