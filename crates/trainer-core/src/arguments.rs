use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{OptimizerType, ParameterGroup, SchedulerOptions, SchedulerType};

/// How a run trains, by the names of Hugging Face's `TrainingArguments`. Steps are optimizer steps everywhere.
///
/// The defaults are those of the captioning recipe that this engine was built for.
///
/// ```
/// use trainer_core::TrainingArguments;
///
/// let arguments = TrainingArguments { learning_rate: -1.0, logging_steps: 0, ..Default::default() };
/// let error = arguments.validate().unwrap_err().to_string();
/// assert!(error.contains("learning_rate") && error.contains("logging_steps"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingArguments {
    /// Where checkpoints and `trainer_state.json` are written. Default `trainer_output`.
    pub output_dir: PathBuf,
    /// Remove the checkpoints that an earlier run left in `output_dir` when a new run begins to train there, which is refused
    /// otherwise. Means nothing to a run that is resumed. Default false.
    pub overwrite_output_dir: bool,
    /// Passes over the training data; may be fractional. Ignored where `max_steps` is given. Default 15.
    pub num_train_epochs: f64,
    /// Steps to make in all. Default: as many as `num_train_epochs` needs.
    pub max_steps: Option<usize>,
    /// The peak of the schedule. Default 5e-5.
    pub learning_rate: f64,
    /// How the learning rate changes from step to step. Default linear.
    pub lr_scheduler_type: SchedulerType,
    /// What schedules can be told besides, such as where they end. Default: nothing.
    pub lr_scheduler_kwargs: SchedulerOptions,
    /// Share of all steps, rounded up, in which the rate rises linearly from 0. Default 0.05.
    pub warmup_ratio: f64,
    /// Batches whose gradients make one step. Default 4.
    pub gradient_accumulation_steps: usize,
    /// Batches of a step that go forward and backward together, at most, where [`Task::merge`](crate::Task::merge) can
    /// make one of them: the same step but for rounding, in larger products and more memory. Default 1.
    pub fused_micro_batches: usize,
    /// Gradients are scaled down to this global norm; 0 turns clipping off. Default 1.
    pub max_grad_norm: f64,
    /// How gradients change parameters. Default AdamW.
    pub optim: OptimizerType,
    /// Weight decay: decoupled in AdamW, added to the gradient in SGD. Parameters of one dimension, which biases and
    /// the weights of norms are, do not decay, as in transformers. Default 0.
    pub weight_decay: f64,
    /// Parameters that learn at another rate or decay otherwise; where several groups match a name, the first one
    /// counts. Default: none.
    pub parameter_groups: Vec<ParameterGroup>,
    /// SGD's momentum. Default 0.
    pub sgd_momentum: f64,
    /// Decay of AdamW's running mean of gradients. Default 0.9.
    pub adam_beta1: f64,
    /// Decay of AdamW's running mean of squared gradients. Default 0.999.
    pub adam_beta2: f64,
    /// Added to AdamW's denominator; above 0, also as f32. Default 1e-8.
    pub adam_epsilon: f64,
    /// What becomes of a step whose loss or gradient norm is not finite. Default: it stops the run.
    pub on_nan: OnNan,
    /// Steps that a run may skip where `on_nan` is `skip`; one more stops it. Default 10.
    pub max_skipped_steps: usize,
    /// Seconds after which the run ends as if it had made all its steps. Those before a resume count. Default: never.
    pub max_seconds: Option<f64>,
    /// When the evaluation data is run through. Default: after every epoch.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations where `eval_strategy` is `steps`. Default 500.
    pub eval_steps: usize,
    /// When a checkpoint is saved. Default: after every epoch.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints where `save_strategy` is `steps`. Default 500.
    pub save_steps: usize,
    /// Checkpoints to keep besides the newest and the best, which are never removed; 0 keeps those two alone.
    /// Default: all.
    pub save_total_limit: Option<usize>,
    /// Steps between entries of the training log. Default 1.
    pub logging_steps: usize,
    /// End with the parameters of the best evaluation instead of the last ones. Every evaluation that improves on the
    /// best is then saved, whatever `save_strategy` says. Default true.
    pub load_best_model_at_end: bool,
    /// The metric that says which evaluation is the best, with or without `eval_` before it. Whether more or less of
    /// it is better is known of every metric. Default `loss`.
    pub metric_for_best_model: String,
    /// End the run after so many evaluations in a row that did not improve on the best. Default: never.
    pub early_stopping_patience: Option<usize>,
    /// An evaluation resets the patience only where it is better than the best by more than this. Default 0.
    pub early_stopping_threshold: f64,
    /// Seed of all that the task draws at random. Default 42.
    pub seed: u64,
}

impl TrainingArguments {
    /// The metric for the best model, without `eval_` before it.
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
            num_train_epochs: 15.0,
            max_steps: None,
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::Linear,
            lr_scheduler_kwargs: SchedulerOptions::default(),
            warmup_ratio: 0.05,
            gradient_accumulation_steps: 4,
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
            eval_strategy: IntervalStrategy::Epoch,
            eval_steps: 500,
            save_strategy: IntervalStrategy::Epoch,
            save_steps: 500,
            save_total_limit: None,
            logging_steps: 1,
            load_best_model_at_end: true,
            metric_for_best_model: "loss".to_owned(),
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            seed: 42,
        }
    }
}

/// When something happens that happens again and again. Where it happens at all, it also happens after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalStrategy {
    /// Never.
    No,
    /// After every so many optimizer steps.
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

/// What becomes of a step whose loss or gradient norm is NaN or infinite. Its gradients are never applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNan {
    /// The run ends with an error that names the step, its batches, the rate and the last good checkpoint.
    #[default]
    Stop,
    /// The step counts but changes nothing, and a warning says all of that.
    Skip,
}
