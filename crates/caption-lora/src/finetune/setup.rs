//! The set-up of a run as text: printed before it begins, and listed in its report.

use std::num::NonZero;

use caption_data::{Padding, Split};
use peft_lora::{Bias, InitLoraWeights, LoraConfig, Modules};
use trainer_core::{IntervalStrategy, OnNan, OptimizerType, SchedulerType, TrainingArguments};

use super::inputs::Inputs;
use crate::adapt::Adapted;
use crate::hub::Location;
use crate::options::{Finetune, Hardware, TargetModules};

/// The set-up in display order: the inputs, what is trained and how, the hardware and the output folder. The
/// main choices are always listed, the others if they differ from their defaults.
pub(super) fn rows(
    options: &Finetune,
    arguments: &TrainingArguments,
    inputs: &Inputs,
    adapted: &Adapted,
    padding: Padding,
    threads: NonZero<usize>,
) -> Vec<(String, String)> {
    let Split { train, validation, test } = &inputs.rows;
    let split = format!("{} train, {} validation, {} test", train.len(), validation.len(), test.len());
    let named = |name: &str, value: String| (name.to_owned(), value);
    let dataset = match &options.data.dataset {
        Location::Hub(id) => at_commit(id.to_string(), inputs.source_commit.as_deref()),
        _ => inputs.source.name(),
    };
    let mut rows = vec![
        named("model", at_commit(options.data.model.to_string(), inputs.commit.as_deref())),
        named("dataset", dataset),
        named("split", split),
    ];
    rows.extend(super::setup_rows::rows(options, inputs));
    rows.extend(training(options, arguments, inputs, adapted));
    if let Padding::MaxLength(tokens) = padding {
        rows.push(named("padding", format!("every caption to {tokens} tokens")));
    }
    let Hardware { device, dtype, .. } = &options.hardware;
    let threads = counted(threads.get(), "thread", "threads");
    rows.push(named("device", format!("{device}, {dtype:?}, {threads}").to_lowercase()));
    rows.push(named("output", arguments.output_dir.display().to_string()));
    rows
}

/// The trained layers, and how they are trained.
fn training(
    options: &Finetune,
    arguments: &TrainingArguments,
    inputs: &Inputs,
    adapted: &Adapted,
) -> Vec<(String, String)> {
    let samples = inputs.rows.train.len();
    let pictures = options.training.per_device_train_batch_size;
    let batches = arguments.gradient_accumulation_steps;
    let method = adapted.adapter.as_ref();
    let method = method.map_or("every weight".to_owned(), |adapter| lora(options, adapter.config()));
    let epochs = match arguments.max_steps {
        Some(steps) => {
            let epochs = epochs_after(steps, samples.div_ceil(pictures), batches);
            format!("{} ({})", rounded(epochs, 2), counted(steps, "step", "steps"))
        }
        None => arguments.num_train_epochs.to_string(),
    };
    let mut rows = vec![
        ("trained", method),
        ("trainable", adapted.summary()),
        ("epochs", epochs),
        (
            "batch",
            format!(
                "{pictures} pictures x {batches} accumulated = {} a step, {} at a time",
                pictures * batches,
                counted(arguments.fused_micro_batches, "batch", "batches")
            ),
        ),
        ("learning rate", rate(arguments)),
        ("optimizer", optimizer(arguments)),
        ("evaluation", interval(arguments.eval_strategy, arguments.eval_steps)),
        ("seed", arguments.seed.to_string()),
    ];
    rows.extend(unusual(options, arguments, inputs, adapted));
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The order of the training rows, if they are not shuffled all together.
fn order(options: &Finetune, inputs: &Inputs) -> Option<String> {
    if options.data.no_shuffle {
        return Some("the same rows in the same order in every epoch".to_owned());
    }
    let windows = inputs.windows.as_ref()?.windows(options.training.seed, 0);
    let megabytes = rounded(options.data.window(inputs.source.as_ref())? as f64 / 1e6, 3);
    Some(format!(
        "shuffled in {windows} parts of {megabytes} MB of pictures, in other parts in each epoch (--shuffle-window)"
    ))
}

/// Choices that are listed only if they differ from their defaults.
fn unusual(
    options: &Finetune,
    arguments: &TrainingArguments,
    inputs: &Inputs,
    adapted: &Adapted,
) -> Vec<(&'static str, String)> {
    let Finetune { training, lora, hardware, run, .. } = options;
    let skips = (arguments.on_nan == OnNan::Skip).then_some(arguments.max_skipped_steps);
    let choices = [
        (
            "first adapter",
            lora.init_adapter.as_ref().map(|name| {
                let first = adapted.first_adapter.as_ref();
                at_commit(name.display().to_string(), first.and_then(|first| first.commit.as_deref()))
            }),
        ),
        ("model dropout", lora.hidden_dropout.map(|p| p.to_string())),
        (
            "labels",
            Some(training.label_smoothing_factor).filter(|p| *p > 0.0).map(|p| format!("smoothed by {p}")),
        ),
        ("order", order(options, inputs)),
        ("checkpoints", run.save_strategy.map(|_| interval(arguments.save_strategy, arguments.save_steps))),
        (
            "ends early",
            arguments.early_stopping_patience.map(|patience| {
                let by = Some(arguments.early_stopping_threshold).filter(|by| *by > 0.0);
                let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
                format!(
                    "after {} without a loss that is lower{by}",
                    counted(patience, "evaluation", "evaluations")
                )
            }),
        ),
        ("time", arguments.max_seconds.map(|seconds| format!("at most {}", duration(seconds)))),
        ("not a number", skips.map(|limit| format!("up to {} skipped", counted(limit, "step", "steps")))),
        (
            "memory",
            hardware
                .gradient_checkpointing
                .then(|| "layers are computed again in the backward pass".to_owned()),
        ),
    ];
    choices.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// `microsoft/git-base, commit 0f3c...`: the requested name, and the commit that it was resolved to.
fn at_commit(name: String, commit: Option<&str>) -> String {
    match commit {
        Some(commit) => format!("{name}, commit {commit}"),
        None => name,
    }
}

/// Seconds as `45 s`, `12 min` or `3.5 h`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// `1 batch`, `2 batches`.
fn counted(count: usize, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

/// The epochs in a number of steps. The last step of an epoch takes the remaining batches.
fn epochs_after(steps: usize, batches: usize, accumulated: usize) -> f64 {
    let steps_per_epoch = batches.div_ceil(accumulated).max(1);
    let (whole, rest) = (steps / steps_per_epoch, steps % steps_per_epoch * accumulated);
    whole as f64 + rest as f64 / batches.max(1) as f64
}

fn interval(strategy: IntervalStrategy, steps: usize) -> String {
    match strategy {
        IntervalStrategy::Epoch => "after every epoch".to_owned(),
        IntervalStrategy::Steps => format!("after every {}", counted(steps, "step", "steps")),
        IntervalStrategy::No => "never".to_owned(),
    }
}

fn lora(options: &Finetune, config: &LoraConfig) -> String {
    let modules = match (&options.lora.target_modules, &config.target_modules) {
        // The adapter's configuration lists the path of each layer.
        (Some(TargetModules::AllLinear), _) => "all-linear".to_owned(),
        (_, Modules::Names(names)) => names.join(", "),
        (_, Modules::Regex(pattern)) => pattern.clone(),
    };
    let method = match (config.use_dora, config.init_lora_weights) {
        (true, _) => "DoRA",
        (_, InitLoraWeights::Pissa | InitLoraWeights::PissaNiter(_)) => "PiSSA",
        (_, InitLoraWeights::Olora) => "OLoRA",
        _ if config.use_rslora => "rsLoRA",
        _ => "LoRA",
    };
    let LoraConfig { r, lora_alpha, lora_dropout, .. } = config;
    let mut text = format!("{method} r {r}, alpha {lora_alpha}, dropout {lora_dropout} on {modules}");
    match config.bias {
        Bias::None => {}
        Bias::All => text += "; all biases",
        Bias::LoraOnly => text += "; their biases",
    }
    if !config.modules_to_save.is_empty() {
        text += &format!("; all of {}", config.modules_to_save.join(", "));
    }
    text
}

fn rate(arguments: &TrainingArguments) -> String {
    let options = &arguments.lr_scheduler_kwargs;
    let schedule = match arguments.lr_scheduler_type {
        SchedulerType::Linear => "linear schedule".to_owned(),
        SchedulerType::Cosine => "cosine schedule".to_owned(),
        SchedulerType::CosineWithRestarts => {
            format!("cosine schedule in {}", counted(options.num_cycles, "wave", "waves"))
        }
        SchedulerType::Polynomial => format!("polynomial schedule of power {}", options.power),
        SchedulerType::Constant | SchedulerType::ConstantWithWarmup => "constant schedule".to_owned(),
        SchedulerType::WarmupStableDecay => {
            format!("warmup-stable-decay schedule, falling in the last {}", percent(options.decay_ratio))
        }
        other => format!("{other:?} schedule"),
    };
    let end = Some(options.min_lr_rate).filter(|rate| *rate > 0.0);
    let end = end.map(|rate| format!(" to {}", percent(rate))).unwrap_or_default();
    format!("{:e}, {schedule}{end}, {} warm-up", arguments.learning_rate, percent(arguments.warmup_ratio))
}

/// Formats a share as `7 %`.
fn percent(share: f64) -> String {
    format!("{} %", rounded(100.0 * share, 4))
}

fn optimizer(arguments: &TrainingArguments) -> String {
    let name = match (arguments.optim, arguments.sgd_momentum) {
        (OptimizerType::AdamW, _) => "AdamW".to_owned(),
        (OptimizerType::Sgd, 0.0) => "SGD".to_owned(),
        (OptimizerType::Sgd, momentum) => format!("SGD, momentum {momentum}"),
        (other, _) => other.to_string(),
    };
    let clipped = match arguments.max_grad_norm {
        0.0 => "gradients not clipped".to_owned(),
        norm => format!("gradients clipped to norm {norm}"),
    };
    let groups = arguments.parameter_groups.iter();
    let groups: String = groups
        .map(|group| format!(", {} at {} times the rate", group.name_contains, group.lr_ratio))
        .collect();
    format!("{name}, weight decay {}, {clipped}{groups}", arguments.weight_decay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!([17.4, 716.0, 12_600.0].map(duration), ["17 s", "12 min", "3.5 h"]);
    }
}
