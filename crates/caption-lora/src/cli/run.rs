use clap::Args;

use super::numbers::{at_least_zero, count, seconds, whole};
use crate::options::{NanPolicy, ReportTo, RunOptions, SaveStrategy};

/// When to evaluate, save and end, and which logs to write.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Evaluating, saving and ending")]
pub(super) struct RunFlags {
    /// Steps between evaluations with --eval-strategy steps [default: --logging-steps]
    #[arg(long, value_name = "STEPS", value_parser = count)]
    eval_steps: Option<usize>,
    /// When to save a checkpoint. Every evaluation that is the best so far is saved in any case [default:
    /// --eval-strategy]
    #[arg(long, value_enum)]
    save_strategy: Option<SaveStrategy>,
    /// Steps between checkpoints with --save-strategy steps [default: --eval-steps]
    #[arg(long, value_name = "STEPS", value_parser = count)]
    save_steps: Option<usize>,
    /// End after this many evaluations in a row without a new best
    #[arg(long, value_name = "EVALUATIONS", value_parser = count)]
    early_stopping_patience: Option<usize>,
    /// How much lower than the best a validation loss must be to count for --early-stopping-patience
    /// [default: 0]
    #[arg(long, value_name = "LOSS", value_parser = at_least_zero)]
    early_stopping_threshold: Option<f64>,
    /// End after this much training time, such as 90s, 45m or 2h; the time before --resume counts too
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    max_time: Option<f64>,
    /// Response to a step whose loss or gradient is not a number; such a step is never applied
    #[arg(long, value_enum, default_value_t)]
    on_nan: NanPolicy,
    /// Maximum number of steps that --on-nan skip skips before it stops [default: 10]
    #[arg(long, value_name = "STEPS", value_parser = whole)]
    max_skipped_steps: Option<usize>,
    /// Additional logs of the learning curves, separated by commas: log.csv, tensorboard/
    #[arg(long, value_enum, value_name = "FORMATS", value_delimiter = ',')]
    report_to: Vec<ReportTo>,
}

same_fields! {
    RunFlags => RunOptions {
        eval_steps,
        save_strategy,
        save_steps,
        early_stopping_patience,
        early_stopping_threshold,
        max_time,
        on_nan,
        max_skipped_steps,
        report_to,
    }
}
