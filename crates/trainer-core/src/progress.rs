use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Plan;
use crate::schedule::BUILT_IN;
use crate::{ArgumentChange, Difference, Identity, LossTotal, TrainingArguments};

/// Everything that an exact resume needs besides parameters, optimizer state and [`TrainerState`](crate::TrainerState);
/// `engine_state.json` in a checkpoint.
///
/// The position in the data is not part of it: it follows from the number of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Version of this crate with which the run began.
    pub(crate) version: String,
    /// Unique name of the run.
    #[serde(default)]
    pub(crate) run: String,
    /// The caller's identity of the run; `None` in checkpoints of versions that had none.
    #[serde(default)]
    pub(crate) identity: Option<Identity>,
    /// When the checkpoint was saved, in nanoseconds since 1970. The newest checkpoint of a directory is the one saved last,
    /// not the one with the most steps.
    pub(crate) saved_at: u64,
    pub(crate) arguments: TrainingArguments,
    /// Name of the optimizer; `None` in checkpoints of versions that had only those of the arguments.
    #[serde(default)]
    pub(crate) optimizer: Option<String>,
    #[serde(default)]
    pub(crate) schedule: ScheduleState,
    pub(crate) batches_per_epoch: usize,
    /// Loss since the last entry of the training log.
    pub(crate) since_log: LossTotal,
    /// Loss since the beginning of the run.
    pub(crate) total: LossTotal,
    /// Steps of the run's checkpoints that still exist, in ascending order.
    pub(crate) saved: Vec<usize>,
    /// Number of steps skipped because their loss or gradient was not finite.
    #[serde(default)]
    pub(crate) skipped: usize,
    /// Number of evaluations in a row without improvement on the best.
    #[serde(default)]
    pub(crate) without_improvement: usize,
    /// Duration of training in seconds.
    #[serde(default)]
    pub(crate) seconds: f64,
    /// Checksums of the parameters before the first step.
    #[serde(default)]
    pub(crate) initial: BTreeMap<String, u32>,
}

/// A learning-rate schedule as a checkpoint records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScheduleState {
    pub(crate) name: String,
    pub(crate) state: String,
}

impl Default for ScheduleState {
    fn default() -> Self {
        Self { name: BUILT_IN.to_owned(), state: String::new() }
    }
}

impl Progress {
    pub(crate) fn new(arguments: &TrainingArguments, plan: &Plan, identity: Identity) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: format!("{:x}-{:x}", nanoseconds(), std::process::id()),
            identity: Some(identity),
            saved_at: 0,
            arguments: arguments.clone(),
            optimizer: None,
            schedule: ScheduleState::default(),
            batches_per_epoch: plan.batches_per_epoch,
            since_log: LossTotal::default(),
            total: LossTotal::default(),
            saved: Vec::new(),
            skipped: 0,
            without_improvement: 0,
            seconds: 0.0,
            initial: BTreeMap::new(),
        }
    }

    pub(crate) fn stamp(&mut self) {
        self.saved_at = nanoseconds();
    }

    /// Compares this saved run with the `current` one. Returns everything that would change the run's numbers; its length,
    /// its learning rate, and when it evaluates and saves may change.
    pub(crate) fn differences(&self, current: &Self) -> Vec<Difference> {
        let difference = |key: &str, saved: &dyn fmt::Display, now: &dyn fmt::Display| {
            let (saved, now) = (saved.to_string(), now.to_string());
            (saved != now).then(|| Difference { key: key.to_owned(), saved: Some(saved), now: Some(now) })
        };
        let (then, now) = (&self.arguments, &current.arguments);
        let fixed = [
            difference(
                "gradient_accumulation_steps",
                &then.gradient_accumulation_steps,
                &now.gradient_accumulation_steps,
            ),
            difference("optim", &self.optimizer_name(), &current.optimizer_name()),
            difference("schedule", &self.schedule.name, &current.schedule.name),
            difference("seed", &then.seed, &now.seed),
        ];
        let mut differences: Vec<Difference> = fixed.into_iter().flatten().collect();
        let none = Identity::new();
        let [saved, identity] = [self, current].map(|run| run.identity.as_ref().unwrap_or(&none));
        differences.extend(saved.differences(identity));
        if differences.is_empty() {
            // Reported only if nothing else differs: a changed batch size or dataset explains this difference
            // better.
            let batches = [self, current].map(|run| run.batches_per_epoch);
            differences.extend(difference("training batches per epoch", &batches[0], &batches[1]));
        }
        differences
    }

    fn optimizer_name(&self) -> String {
        self.optimizer.clone().unwrap_or_else(|| self.arguments.optim.to_string())
    }

    /// Returns the arguments whose values differ.
    pub(crate) fn changes(&self, arguments: &TrainingArguments) -> Vec<ArgumentChange> {
        const ABOUT_FILES: [&str; 2] = ["output_dir", "overwrite_output_dir"];
        let [saved, now] = [&self.arguments, arguments].map(|arguments| serde_json::json!(arguments));
        let mut changes = Vec::new();
        compare("", &saved, &now, &mut changes);
        changes.retain(|change| !ABOUT_FILES.contains(&change.name.as_str()));
        changes
    }
}

/// Collects the values that differ. The name of a nested value is `outer.inner`.
fn compare(name: &str, saved: &Value, now: &Value, changes: &mut Vec<ArgumentChange>) {
    if let (Some(saved), Some(now)) = (saved.as_object(), now.as_object()) {
        for (key, saved) in saved {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            compare(&name, saved, &now[key], changes);
        }
    } else if saved != now {
        let [saved, now] = [saved, now].map(|value| match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            // In the shortest form: 5e-5, not 0.00005.
            Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or(f64::NAN)),
            other => other.to_string(),
        });
        changes.push(ArgumentChange { name: name.to_owned(), saved, now });
    }
}

/// Nanoseconds since 1970.
fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
