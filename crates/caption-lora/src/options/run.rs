use super::names::names;

/// When to evaluate, save and end, and which logs to write.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunOptions {
    /// Steps between evaluations with [`EvalStrategy::Steps`](super::EvalStrategy::Steps). Default:
    /// [`logging_steps`](super::TrainingOptions::logging_steps).
    pub eval_steps: Option<usize>,
    /// When a checkpoint is saved. Every evaluation that is the best so far is saved in any case. Default: as
    /// [`eval_strategy`](super::TrainingOptions::eval_strategy).
    pub save_strategy: Option<SaveStrategy>,
    /// Steps between checkpoints with [`SaveStrategy::Steps`]. Default: [`eval_steps`](Self::eval_steps).
    pub save_steps: Option<usize>,
    /// The run ends after this many evaluations in a row without a new best. Default: never.
    pub early_stopping_patience: Option<usize>,
    /// How much lower than the best a validation loss must be to count for the patience, in nats per token. Default: 0.
    pub early_stopping_threshold: Option<f64>,
    /// The run ends after this many seconds of training, including those before a resume. Default: no limit.
    pub max_time: Option<f64>,
    /// The response to a step whose loss or gradient is not a number. Default: stop.
    pub on_nan: NanPolicy,
    /// The number of steps that [`NanPolicy::Skip`] skips before it stops. Default: 10.
    pub max_skipped_steps: Option<usize>,
    /// Additional logs of the learning curves. Default: none.
    pub report_to: Vec<ReportTo>,
}

/// The response to a step whose loss or gradient is not a number. Such a step is never applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NanPolicy {
    /// Stop the run with an error that names the step.
    #[default]
    Stop,
    /// Skip the step with a warning.
    Skip,
}

names!(NanPolicy { Stop => "stop", Skip => "skip" });

/// Logs of the learning curves besides `log.jsonl` and `trainer_state.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportTo {
    /// `log.csv`: step, metric, value.
    Csv,
    /// `tensorboard/`: event files.
    Tensorboard,
}

names!(ReportTo { Csv => "csv", Tensorboard => "tensorboard" });

/// When checkpoints are saved. Every evaluation that is the best so far is saved in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveStrategy {
    /// After every epoch.
    Epoch,
    /// After every [`save_steps`](RunOptions::save_steps) steps.
    Steps,
    /// Never, except for these.
    No,
}

names!(SaveStrategy { Epoch => "epoch", Steps => "steps", No => "no" });
