//! What a run is, in words: the set-up that is printed before it begins and listed in its report.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use peft_lora::{LoraConfig, Modules};
use trainer_core::{LogEntry, OptimizerType, SchedulerType, TrainerState, TrainingArguments};

use crate::adapt::Adapted;
use crate::cli::{Finetune, Tune};
use crate::hub::Location;

/// What is trained and how: every choice, also where it is the default.
pub fn rows(options: &Finetune, arguments: &TrainingArguments, adapted: &Adapted) -> Vec<(String, String)> {
    let pictures = options.training.per_device_train_batch_size;
    let batches = arguments.gradient_accumulation_steps;
    let method = adapted.adapter.as_ref().map_or("every weight".to_owned(), |adapter| lora(adapter.config()));
    let epochs = match arguments.max_steps {
        Some(steps) => format!("{}, at most {steps} steps", arguments.num_train_epochs),
        None => arguments.num_train_epochs.to_string(),
    };
    let rows = [
        ("trained", method),
        ("trainable", adapted.summary()),
        ("epochs", epochs),
        (
            "batch",
            format!(
                "{pictures} pictures x {batches} accumulated = {} a step, {} at a time",
                pictures * batches,
                counted(arguments.fused_micro_batches)
            ),
        ),
        ("learning rate", rate(arguments)),
        ("optimizer", optimizer(arguments)),
        ("seed", arguments.seed.to_string()),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// For a reader who knows nothing of the run: which model was trained on which pictures, for how long, and when.
pub fn story(options: &Finetune, pictures: usize, state: &TrainerState) -> String {
    let model = match &options.data.model {
        Location::Embedded => "The small model that comes with this project".to_owned(),
        other => other.to_string(),
    };
    let what = match options.lora.tune {
        Tune::Text => "with LoRA adapters in its text decoder",
        Tune::Vision => "with LoRA adapters in its vision encoder",
        Tune::Both => "with LoRA adapters in its vision encoder and text decoder",
        Tune::Full => "in all its weights",
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = DateTime::from_timestamp_secs(now.as_secs().cast_signed()).unwrap_or_default().date_naive();
    format!("{model}, fine-tuned {what} on {data}: {steps} steps{took}, finished on {day} (UTC).")
}

/// Seconds as `45 s`, `12 min` or `3.5 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn counted(batches: usize) -> String {
    if batches == 1 { "1 batch".to_owned() } else { format!("{batches} batches") }
}

fn lora(config: &LoraConfig) -> String {
    let modules = match &config.target_modules {
        Modules::Names(names) => names.join(", "),
        Modules::Regex(pattern) => pattern.clone(),
    };
    format!("LoRA r {}, alpha {}, dropout {} on {modules}", config.r, config.lora_alpha, config.lora_dropout)
}

fn rate(arguments: &TrainingArguments) -> String {
    let schedule = match arguments.lr_scheduler_type {
        SchedulerType::Linear => "linear",
        SchedulerType::Cosine => "cosine",
        SchedulerType::CosineWithRestarts => "cosine with restarts",
        SchedulerType::Polynomial => "polynomial",
        SchedulerType::Constant | SchedulerType::ConstantWithWarmup => "constant",
        SchedulerType::WarmupStableDecay => "warmup-stable-decay",
    };
    let warmup = 100.0 * arguments.warmup_ratio;
    format!("{:e}, {schedule} schedule, {warmup} % warm-up", arguments.learning_rate)
}

fn optimizer(arguments: &TrainingArguments) -> String {
    let name = match arguments.optim {
        OptimizerType::AdamW => "AdamW",
        OptimizerType::Sgd => "SGD",
    };
    let clipped = match arguments.max_grad_norm {
        0.0 => "gradients not clipped".to_owned(),
        norm => format!("gradients clipped to norm {norm}"),
    };
    format!("{name}, weight decay {}, {clipped}", arguments.weight_decay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_tell_them() {
        assert_eq!([17.4, 716.0, 12_600.0].map(duration), ["17 s", "12 min", "3.5 h"]);
    }
}
