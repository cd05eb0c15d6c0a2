use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

/// The public record of a run, written to `trainer_state.json` with Hugging Face's keys: tools that read the state of
/// a `transformers.Trainer` read this one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Step after which the best evaluation was made.
    pub best_global_step: Option<usize>,
    /// The best value of the metric for the best model.
    pub best_metric: Option<f64>,
    /// Checkpoint of the best evaluation, where one was saved.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Epochs made, as a fraction.
    pub epoch: f64,
    /// Optimizer steps made.
    pub global_step: usize,
    /// Optimizer steps that the run makes in all.
    pub max_steps: usize,
    /// Epochs that the run makes in all, the last one perhaps in part.
    pub num_train_epochs: usize,
    /// Steps between entries of the training log.
    pub logging_steps: usize,
    /// Steps between evaluations, where they go by steps.
    pub eval_steps: usize,
    /// Steps between checkpoints, where they go by steps.
    pub save_steps: usize,
    /// All that was logged, in order.
    pub log_history: Vec<LogEntry>,
}

/// One entry of the log, with the keys of `transformers.Trainer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEntry {
    /// The training steps since the last such entry.
    Train {
        /// Mean loss of their targets.
        loss: f64,
        /// Global norm of the gradients of the last step, before clipping.
        grad_norm: f64,
        /// Learning rate that the last step ran at.
        learning_rate: f64,
        /// Epochs made.
        epoch: f64,
        /// Steps made.
        step: usize,
    },
    /// An evaluation.
    Evaluation {
        /// Mean loss of the evaluation's targets. A loss that is not finite is `null` in JSON, and NaN when read.
        #[serde(deserialize_with = "nan_if_null")]
        eval_loss: f64,
        /// Seconds.
        eval_runtime: f64,
        /// Samples a second.
        eval_samples_per_second: f64,
        /// Batches a second.
        eval_steps_per_second: f64,
        /// The other metrics, such as `eval_perplexity`; NaN and infinity are `null` in JSON, and NaN when read.
        #[serde(flatten, deserialize_with = "metrics")]
        metrics: BTreeMap<String, f64>,
        /// Epochs made.
        epoch: f64,
        /// Steps made.
        step: usize,
    },
    /// The end of the run. Times and speeds are those of this process, from where it resumed if it did.
    Summary {
        /// Seconds, evaluations and checkpoints among them.
        train_runtime: f64,
        /// Training samples a second.
        train_samples_per_second: f64,
        /// Optimizer steps a second.
        train_steps_per_second: f64,
        /// Mean loss of all targets of the run, of what came before a resume as well.
        train_loss: f64,
        /// Epochs made.
        epoch: f64,
        /// Steps made.
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
