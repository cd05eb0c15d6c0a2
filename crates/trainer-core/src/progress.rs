use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Plan;
use crate::{ArgumentChange, Difference, Identity, LossTotal, TrainingArguments};

/// What a run must remember besides parameters, moments and [`TrainerState`](crate::TrainerState) in order to go on as
/// if it had never stopped; `engine_state.json` in a checkpoint.
///
/// The position in the data is not among it: it follows from the number of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Version of this crate that the run began with.
    pub(crate) version: String,
    /// A name that no other run has.
    #[serde(default)]
    pub(crate) run: String,
    /// What the caller says the run is; `None` in checkpoints of versions that did not ask.
    #[serde(default)]
    pub(crate) identity: Option<Identity>,
    /// When the checkpoint was saved, in nanoseconds since 1970: the newest of an output directory is the last one
    /// written, which need not have the most steps if several runs shared the directory.
    pub(crate) saved_at: u64,
    pub(crate) arguments: TrainingArguments,
    pub(crate) batches_per_epoch: usize,
    /// Loss since the last entry of the training log.
    pub(crate) since_log: LossTotal,
    /// Loss since the beginning of the run.
    pub(crate) total: LossTotal,
    /// Steps of the checkpoints that the run has saved and not removed, in ascending order.
    pub(crate) saved: Vec<usize>,
    /// Steps that were skipped as their loss or gradient was not finite.
    #[serde(default)]
    pub(crate) skipped: usize,
    /// Evaluations in a row that did not improve on the best.
    #[serde(default)]
    pub(crate) without_improvement: usize,
    /// Seconds of training.
    #[serde(default)]
    pub(crate) seconds: f64,
    /// Checksums of the parameters before the first step.
    #[serde(default)]
    pub(crate) initial: BTreeMap<String, u32>,
}

impl Progress {
    pub(crate) fn new(arguments: &TrainingArguments, plan: &Plan, identity: Identity) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: format!("{:x}-{:x}", nanoseconds(), std::process::id()),
            identity: Some(identity),
            saved_at: 0,
            arguments: arguments.clone(),
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

    /// In what the run that was saved is not the run of these arguments, data and identity. What may change is not among it:
    /// for how long and how fast a run trains, and when it evaluates and saves.
    pub(crate) fn differences(
        &self,
        arguments: &TrainingArguments,
        plan: &Plan,
        identity: &Identity,
    ) -> Vec<Difference> {
        let difference = |key: &str, saved: &dyn fmt::Display, now: &dyn fmt::Display| {
            let (saved, now) = (saved.to_string(), now.to_string());
            (saved != now).then(|| Difference { key: key.to_owned(), saved: Some(saved), now: Some(now) })
        };
        let then = &self.arguments;
        let fixed = [
            difference(
                "gradient_accumulation_steps",
                &then.gradient_accumulation_steps,
                &arguments.gradient_accumulation_steps,
            ),
            difference("optim", &then.optim, &arguments.optim),
            difference("seed", &then.seed, &arguments.seed),
        ];
        let mut differences: Vec<Difference> = fixed.into_iter().flatten().collect();
        let none = Identity::new();
        differences.extend(self.identity.as_ref().unwrap_or(&none).differences(identity));
        if differences.is_empty() {
            // Another batch size or other data say more, where they are known.
            let batches = ("training batches per epoch", &self.batches_per_epoch, &plan.batches_per_epoch);
            differences.extend(difference(batches.0, batches.1, batches.2));
        }
        differences
    }

    /// The arguments that differ now.
    pub(crate) fn changes(&self, arguments: &TrainingArguments) -> Vec<ArgumentChange> {
        const ABOUT_FILES: [&str; 2] = ["output_dir", "overwrite_output_dir"];
        let [saved, now] = [&self.arguments, arguments].map(|arguments| serde_json::json!(arguments));
        let mut changes = Vec::new();
        compare("", &saved, &now, &mut changes);
        changes.retain(|change| !ABOUT_FILES.contains(&change.name.as_str()));
        changes
    }
}

/// Collects the values that differ, by name: those of an object have its name and a dot before their own.
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
            // As people write them: 5e-5.
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
