use clap::Args;

use super::numbers::{at_least_zero, count, dropout, norm, positive, seed, share, steps, whole};
use crate::options::{EvalStrategy, FuseAccumulation, LrSchedulerType, TrainingOptions};
use crate::resume::Resume;

/// Length, learning rate and batches. "Step" always means an optimizer step.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainingFlags {
    /// Passes over the training rows; may be a fraction
    #[arg(long, value_name = "EPOCHS", default_value = "15", value_parser = positive)]
    num_train_epochs: f64,
    /// Stop after this many steps; overrides --num-train-epochs
    #[arg(long, value_name = "STEPS", value_parser = steps)]
    max_steps: Option<usize>,
    /// The highest learning rate, reached at the end of the warm-up [default: 5e-5; 1e-3 for the embedded
    /// model, whose layers are six times narrower]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    learning_rate: Option<f64>,
    /// The learning rate's schedule after the warm-up
    #[arg(long, value_enum, default_value_t)]
    lr_scheduler_type: LrSchedulerType,
    /// Share of the steps in which the learning rate rises from 0
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = share)]
    warmup_ratio: f64,
    /// Batch size
    #[arg(long, value_name = "PICTURES", default_value = "2", value_parser = count)]
    per_device_train_batch_size: usize,
    /// Batch size of evaluations; affects only speed and memory
    #[arg(long, value_name = "PICTURES", default_value = "8", value_parser = count)]
    per_device_eval_batch_size: usize,
    /// Batches per optimizer step; their gradients are weighted by the number of target tokens
    #[arg(long, value_name = "BATCHES", default_value = "4", value_parser = count)]
    gradient_accumulation_steps: usize,
    /// Run up to this many of a step's batches in one forward and backward pass: the same step except for
    /// rounding; this is faster and takes more memory; `auto`: as many as take little memory
    #[arg(long, value_name = "BATCHES", default_value_t)]
    fuse_accumulation: FuseAccumulation,
    /// Weight decay, except for biases and norms; decoupled in AdamW
    #[arg(long, value_name = "DECAY", default_value = "0", value_parser = at_least_zero)]
    weight_decay: f64,
    /// Clip gradients to this norm over all trainable parameters; 0 turns clipping off
    #[arg(long, value_name = "NORM", default_value = "1.0", value_parser = norm)]
    max_grad_norm: f64,
    /// Label smoothing: share of each target that is spread over the whole vocabulary, in training only
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = dropout)]
    label_smoothing_factor: f64,
    /// When to measure the validation loss
    #[arg(long, value_enum, default_value_t)]
    eval_strategy: EvalStrategy,
    /// Keep this many checkpoints besides the newest and the best; all if not given
    #[arg(long, value_name = "CHECKPOINTS", value_parser = whole)]
    save_total_limit: Option<usize>,
    /// Steps between two lines of the training log
    #[arg(long, value_name = "STEPS", default_value = "1", value_parser = count)]
    logging_steps: usize,
    /// Seed of the adapters' initial weights, of dropout and of the order of the training rows
    #[arg(long, value_name = "SEED", default_value_t = 42, value_parser = seed)]
    seed: u64,
    /// Continue a stopped run with its own flags: from its newest checkpoint if DIR is its folder or that of a sweep, or from
    /// the checkpoint DIR; without DIR the run in --output-dir, else the one in the working folder, else the
    /// newest in runs/pokemon, runs/pokemon-2, ... Further flags may change how long and how fast it trains, and when it evaluates,
    /// saves and ends
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "latest")]
    pub(super) resume: Option<Resume>,
}

same_fields! {
    TrainingFlags => TrainingOptions without resume {
        num_train_epochs,
        max_steps,
        learning_rate,
        lr_scheduler_type,
        warmup_ratio,
        per_device_train_batch_size,
        per_device_eval_batch_size,
        gradient_accumulation_steps,
        fuse_accumulation,
        weight_decay,
        max_grad_norm,
        label_smoothing_factor,
        eval_strategy,
        save_total_limit,
        logging_steps,
        seed,
    }
}
