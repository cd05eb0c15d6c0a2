use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

/// The public record of a run, written to `trainer_state.json` with Hugging Face's keys: tools for the state of a
/// `transformers.Trainer` can read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Step of the best evaluation.
    pub best_global_step: Option<usize>,
    /// Value of the metric that selects the best evaluation.
    pub best_metric: Option<f64>,
    /// Checkpoint of the best evaluation, if one was saved.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Number of completed epochs, as a fraction.
    pub epoch: f64,
    /// Number of completed optimizer steps.
    pub global_step: usize,
    /// Total number of optimizer steps.
    pub max_steps: usize,
    /// Total number of epochs, rounded up.
    pub num_train_epochs: usize,
    /// Steps between entries of the training log.
    pub logging_steps: usize,
    /// Steps between evaluations, if the strategy is `steps`.
    pub eval_steps: usize,
    /// Steps between checkpoints, if the strategy is `steps`.
    pub save_steps: usize,
    /// All log entries, in order.
    pub log_history: Vec<LogEntry>,
}

/// One entry of the log, with the keys of `transformers.Trainer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum LogEntry {
    /// The training steps since the previous entry of this kind.
    Train {
        /// Mean loss per target.
        loss: f64,
        /// Global norm of the gradients of the last step, before clipping.
        grad_norm: f64,
        /// Learning rate of the last step.
        learning_rate: f64,
        /// Number of completed epochs.
        epoch: f64,
        /// Number of completed steps.
        step: usize,
    },
    /// An evaluation.
    Evaluation {
        /// Mean loss per target. A loss that is not finite is written as `null` and read as NaN.
        #[serde(deserialize_with = "nan_if_null")]
        eval_loss: f64,
        /// Duration in seconds.
        eval_runtime: f64,
        /// Samples per second.
        eval_samples_per_second: f64,
        /// Batches per second.
        eval_steps_per_second: f64,
        /// The other metrics, such as `eval_perplexity`. Values that are not finite are written as `null` and read as NaN.
        #[serde(flatten, deserialize_with = "metrics")]
        metrics: BTreeMap<String, f64>,
        /// Number of completed epochs.
        epoch: f64,
        /// Number of completed steps.
        step: usize,
    },
    /// The end of the run. Times and speeds are those of this process, without the time before a resume.
    Summary {
        /// Duration in seconds, including evaluations and checkpoints.
        train_runtime: f64,
        /// Training samples per second.
        train_samples_per_second: f64,
        /// Optimizer steps per second.
        train_steps_per_second: f64,
        /// Mean loss per target over the whole run, including the steps before a resume.
        train_loss: f64,
        /// Number of completed epochs.
        epoch: f64,
        /// Number of completed steps.
        step: usize,
    },
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn metrics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let metrics = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(metrics.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}
