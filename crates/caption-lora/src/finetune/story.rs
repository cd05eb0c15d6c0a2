use trainer_core::{LogEntry, TrainerState};

use super::setup::duration;
use crate::adapt::Adapted;
use crate::hub::Location;
use crate::options::Finetune;
use crate::report::today;

/// A summary for readers who do not know the run: which model was trained on which pictures, for how long,
/// and when.
pub(super) fn story(options: &Finetune, adapted: &Adapted, pictures: usize, state: &TrainerState) -> String {
    let model = match &options.data.model {
        Location::Embedded => "The small model that comes with this project".to_owned(),
        other => other.to_string(),
    };
    let what = match (&adapted.adapter, adapted.text_trains, adapted.vision_trains) {
        (None, ..) => "in all its weights",
        (_, true, true) => "with LoRA adapters in its vision encoder and text decoder",
        (_, false, true) => "with LoRA adapters in its vision encoder",
        (_, _, false) => "with LoRA adapters in its text decoder",
    };
    let data = match &options.data.dataset {
        Location::Embedded => format!("{pictures} drawings of small monsters that this project makes itself"),
        other => format!("{pictures} pictures of {other}"),
    };
    let steps = state.global_step;
    let took = state.log_history.iter().rev().find_map(|entry| match entry {
        LogEntry::Summary { train_runtime, .. } => Some(format!(" in {}", duration(*train_runtime))),
        _ => None,
    });
    let took = took.unwrap_or_default();
    let day = today();
    format!("{model}, fine-tuned {what} on {data}: {steps} steps{took}, finished on {day} (UTC).")
}
