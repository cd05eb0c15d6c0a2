use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::{LossTotal, TrainingArguments};

/// What a run must remember besides parameters, moments and [`TrainerState`](crate::TrainerState) in order to go on as
/// if it had never stopped; `engine_state.json` in a checkpoint.
///
/// The position in the data is not among it: it follows from the number of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Version of this crate that the run began with.
    pub(crate) version: String,
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
    pub(crate) fn new(arguments: &TrainingArguments, plan: &Plan) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
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
        self.saved_at =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    }

    /// Why a run of these arguments and data cannot go on from here: the number of steps would mean another position.
    pub(crate) fn conflict(&self, arguments: &TrainingArguments, plan: &Plan) -> Option<String> {
        let accumulation =
            [&self.arguments, arguments].map(|arguments| arguments.gradient_accumulation_steps);
        if self.batches_per_epoch != plan.batches_per_epoch {
            let (then, now) = (self.batches_per_epoch, plan.batches_per_epoch);
            return Some(format!("it was saved with {then} training batches an epoch, now there are {now}"));
        }
        if accumulation[0] != accumulation[1] {
            let [then, now] = accumulation;
            return Some(format!("it was saved with gradient_accumulation_steps {then}, now it is {now}"));
        }
        let optim = [&self.arguments, arguments].map(|arguments| arguments.optim);
        if optim[0] != optim[1] {
            let [then, now] = optim;
            return Some(format!("it was saved with optim {then}, now it is {now}"));
        }
        None
    }

    /// The arguments that differ now, as `name: then -> now`.
    pub(crate) fn changes(&self, arguments: &TrainingArguments) -> Vec<String> {
        let [then, now] = [&self.arguments, arguments].map(|arguments| serde_json::json!(arguments));
        let names = then.as_object().into_iter().flatten().map(|(name, _)| name);
        names
            .filter(|&name| name != "output_dir" && then[name] != now[name])
            .map(|name| format!("{name}: {} -> {}", then[name], now[name]))
            .collect()
    }
}
