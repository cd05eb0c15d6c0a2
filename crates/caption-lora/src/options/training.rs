use std::{fmt, str::FromStr};

use super::names::names;
use super::numbers::count;

/// Length, learning rate and batches. "Step" always means an optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingOptions {
    /// Passes over the training rows; may be a fraction. Default: 15.
    pub num_train_epochs: f64,
    /// The run stops after this many steps, whatever the number of epochs. Default: no limit.
    pub max_steps: Option<usize>,
    /// The highest learning rate, reached at the end of the warm-up. Default: see
    /// [`Finetune::learning_rate`](super::Finetune::learning_rate).
    pub learning_rate: Option<f64>,
    /// The learning rate's schedule after the warm-up. Default: linear.
    pub lr_scheduler_type: LrSchedulerType,
    /// Share of the steps in which the learning rate rises from 0. Default: 0.05.
    pub warmup_ratio: f64,
    /// Pictures in a training batch. Default: 2.
    pub per_device_train_batch_size: usize,
    /// Pictures in an evaluation batch; affects only speed and memory. Default: 8.
    pub per_device_eval_batch_size: usize,
    /// Batches per step; their gradients are weighted by the number of target tokens. Default: 4.
    pub gradient_accumulation_steps: usize,
    /// The number of a step's batches that run in one forward and backward pass; the step is the same except
    /// for rounding. Default: as many as take little memory.
    pub fuse_accumulation: FuseAccumulation,
    /// Weight decay, except for biases and norms; decoupled in AdamW. Default: 0.
    pub weight_decay: f64,
    /// Gradients are clipped to this norm over all trainable parameters; 0 turns clipping off. Default: 1.
    pub max_grad_norm: f64,
    /// Label smoothing: share of each target that is spread over the whole vocabulary, in training only. Default: 0.
    pub label_smoothing_factor: f64,
    /// When the validation loss is measured. Default: after every epoch.
    pub eval_strategy: EvalStrategy,
    /// The number of checkpoints that are kept besides the newest and the best. Default: all.
    pub save_total_limit: Option<usize>,
    /// Steps between two lines of the training log. Default: 1.
    pub logging_steps: usize,
    /// Seed of the adapters' initial weights, of dropout and of the order of the training rows. Default: 42.
    pub seed: u64,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            num_train_epochs: 15.0,
            max_steps: None,
            learning_rate: None,
            lr_scheduler_type: LrSchedulerType::default(),
            warmup_ratio: 0.05,
            per_device_train_batch_size: 2,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 4,
            fuse_accumulation: FuseAccumulation::default(),
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            label_smoothing_factor: 0.0,
            eval_strategy: EvalStrategy::default(),
            save_total_limit: None,
            logging_steps: 1,
            seed: 42,
        }
    }
}

/// The schedule of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LrSchedulerType {
    /// Linear decay to 0.
    #[default]
    Linear,
    /// Decay to 0 along half a cosine.
    Cosine,
    /// [`lr_num_cycles`](super::OptimizerOptions::lr_num_cycles) times decay to 0 along half a cosine, starting from the
    /// highest value each time.
    CosineWithRestarts,
    /// Decay to 0 as the remaining share of steps, to the power [`lr_power`](super::OptimizerOptions::lr_power).
    Polynomial,
    /// Constant.
    Constant,
    /// Constant, with decay to 0 along half a cosine in the last share
    /// [`lr_decay_ratio`](super::OptimizerOptions::lr_decay_ratio) of the steps.
    WarmupStableDecay,
}

names!(LrSchedulerType { Linear => "linear", Cosine => "cosine", CosineWithRestarts => "cosine-with-restarts", Polynomial => "polynomial", Constant => "constant", WarmupStableDecay => "warmup-stable-decay" });

/// When the validation loss is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EvalStrategy {
    /// After every epoch; the best checkpoint is used at the end.
    #[default]
    Epoch,
    /// After every [`eval_steps`](super::RunOptions::eval_steps) steps; the best checkpoint is used at the end.
    Steps,
    /// Never; the final weights are used at the end.
    No,
}

names!(EvalStrategy { Epoch => "epoch", Steps => "steps", No => "no" });

/// How many micro-batches of a step run in one forward and backward pass. As text: `auto`, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FuseAccumulation {
    /// As many as take little memory.
    #[default]
    Auto,
    /// At most this many.
    UpTo(usize),
}

impl FromStr for FuseAccumulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { count(text).map(Self::UpTo) }
    }
}

impl fmt::Display for FuseAccumulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::UpTo(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_accumulation_is_auto_or_a_maximum() {
        for (text, value) in [("auto", FuseAccumulation::Auto), ("4", FuseAccumulation::UpTo(4))] {
            assert_eq!(text.parse(), Ok(value));
            assert_eq!(value.to_string(), text);
        }
        assert!("0".parse::<FuseAccumulation>().is_err() && "all".parse::<FuseAccumulation>().is_err());
    }
}
