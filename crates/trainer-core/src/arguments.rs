use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, SchedulerType};

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
    /// Passes over the training data; may be fractional. Ignored where `max_steps` is given. Default 15.
    pub num_train_epochs: f64,
    /// Steps to make in all. Default: as many as `num_train_epochs` needs.
    pub max_steps: Option<usize>,
    /// The peak of the schedule. Default 5e-5.
    pub learning_rate: f64,
    /// How the learning rate changes from step to step. Default linear.
    pub lr_scheduler_type: SchedulerType,
    /// Share of all steps, rounded up, in which the rate rises linearly from 0. Default 0.05.
    pub warmup_ratio: f64,
    /// Batches whose gradients make one step. Default 4.
    pub gradient_accumulation_steps: usize,
    /// Gradients are scaled down to this global norm; 0 turns clipping off. Default 1.
    pub max_grad_norm: f64,
    /// AdamW's decoupled weight decay, of every trainable parameter; transformers exempts biases and norms, which an
    /// adapter has none of. Default 0.
    pub weight_decay: f64,
    /// Decay of AdamW's running mean of gradients. Default 0.9.
    pub adam_beta1: f64,
    /// Decay of AdamW's running mean of squared gradients. Default 0.999.
    pub adam_beta2: f64,
    /// Added to AdamW's denominator. Default 1e-8.
    pub adam_epsilon: f64,
    /// When the evaluation data is run through. Default: after every epoch.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations where `eval_strategy` is `steps`. Default 500.
    pub eval_steps: usize,
    /// When a checkpoint is saved. Default: after every epoch.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints where `save_strategy` is `steps`. Default 500.
    pub save_steps: usize,
    /// Checkpoints to keep, the newest and the best among them, which are never removed. Default: all.
    pub save_total_limit: Option<usize>,
    /// Steps between entries of the training log. Default 1.
    pub logging_steps: usize,
    /// End with the parameters of the lowest evaluation loss instead of the last ones. Every evaluation that improves
    /// on the best is then saved, whatever `save_strategy` says. Default true.
    pub load_best_model_at_end: bool,
    /// Seed of all that the task draws at random. Default 42.
    pub seed: u64,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            output_dir: PathBuf::from("trainer_output"),
            num_train_epochs: 15.0,
            max_steps: None,
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::Linear,
            warmup_ratio: 0.05,
            gradient_accumulation_steps: 4,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            eval_strategy: IntervalStrategy::Epoch,
            eval_steps: 500,
            save_strategy: IntervalStrategy::Epoch,
            save_steps: 500,
            save_total_limit: None,
            logging_steps: 1,
            load_best_model_at_end: true,
            seed: 42,
        }
    }
}

impl TrainingArguments {
    /// Checks every argument.
    ///
    /// # Errors
    /// [`Error::Arguments`] with all that is wrong, not only the first.
    pub fn validate(&self) -> Result<()> {
        let mut issues = Vec::new();
        let mut require = |holds: bool, argument: &str, rule: &str, got: &dyn fmt::Display| {
            if !holds {
                issues.push(format!("{argument} must be {rule}, got {got}"));
            }
        };
        let at_least_0 = |x: f64| x.is_finite() && x >= 0.0;

        require(
            self.num_train_epochs.is_finite() && self.num_train_epochs > 0.0,
            "num_train_epochs",
            "above 0",
            &self.num_train_epochs,
        );
        require(at_least_0(self.learning_rate), "learning_rate", "at least 0", &self.learning_rate);
        require((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "in [0, 1]", &self.warmup_ratio);
        require(
            at_least_0(self.max_grad_norm),
            "max_grad_norm",
            "at least 0 (0 turns clipping off)",
            &self.max_grad_norm,
        );
        require(at_least_0(self.weight_decay), "weight_decay", "at least 0", &self.weight_decay);
        require((0.0..1.0).contains(&self.adam_beta1), "adam_beta1", "in [0, 1)", &self.adam_beta1);
        require((0.0..1.0).contains(&self.adam_beta2), "adam_beta2", "in [0, 1)", &self.adam_beta2);
        require(at_least_0(self.adam_epsilon), "adam_epsilon", "at least 0", &self.adam_epsilon);
        for (argument, count) in [
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("save_total_limit", self.save_total_limit.unwrap_or(1)),
            ("logging_steps", self.logging_steps),
        ] {
            require(count >= 1, argument, "at least 1", &count);
        }
        if self.output_dir.as_os_str().is_empty() {
            issues.push("output_dir must not be empty".to_owned());
        }
        if self.load_best_model_at_end && self.eval_strategy == IntervalStrategy::No {
            issues.push("load_best_model_at_end needs evaluations, but eval_strategy is no".to_owned());
        }
        if issues.is_empty() { Ok(()) } else { Err(Error::Arguments { issues }) }
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
