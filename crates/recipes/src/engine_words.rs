//! Messages of the training engine in the words of the command line: the engine names its arguments, and a user gave flags.

use anyhow::{Error, anyhow};
use trainer_core::{ArgumentChange, BoxError, Difference, Event, EventSink, Warning};

/// Arguments whose flags have other names than theirs in kebab case.
const RENAMED: [(&str, &str); 8] = [
    ("fused_micro_batches", "--fuse-accumulation"),
    ("load_best_model_at_end", "--eval-strategy"),
    ("lr_scheduler_kwargs.decay_ratio", "--lr-decay-ratio"),
    ("lr_scheduler_kwargs.min_lr_rate", "--min-lr-rate"),
    ("lr_scheduler_kwargs.num_cycles", "--lr-num-cycles"),
    ("lr_scheduler_kwargs.power", "--lr-power"),
    ("max_seconds", "--max-time"),
    ("parameter_groups", "--loraplus-lr-ratio"),
];

/// The flag of one of the engine's arguments.
pub fn flag(argument: &str) -> String {
    let renamed = RENAMED.iter().find(|(name, _)| *name == argument);
    renamed.map_or_else(|| format!("--{}", argument.replace('_', "-")), |(_, flag)| (*flag).to_owned())
}

/// An error of the engine as an error of the command line, which names flags and says what to do.
pub fn error(error: trainer_core::Error) -> Error {
    use trainer_core::Error::{
        AnotherRun, Arguments, EarlierCheckpoints, NoCheckpoint, NonFinite, TooManySkipped,
    };
    match &error {
        Arguments { issues } => {
            let issues: Vec<String> = issues.iter().map(|issue| named(issue)).collect();
            anyhow!("{}", issues.join("; "))
        }
        AnotherRun { path, differences } => another_run(&path.display().to_string(), differences),
        NonFinite { .. } => anyhow!("{error}; --on-nan skip passes over such steps"),
        TooManySkipped { .. } => anyhow!("{error}; --max-skipped-steps allows more"),
        EarlierCheckpoints { path, .. } => anyhow!(
            "{} holds checkpoints of an earlier run: continue it with --resume {}, choose another --output-dir, or replace it \
             with --overwrite-output-dir",
            path.display(),
            path.display()
        ),
        NoCheckpoint { path, damaged } => anyhow!(
            "no usable checkpoint in {} ({}): begin the run again with --overwrite-output-dir",
            path.display(),
            damaged.join("; ")
        ),
        _ => error.into(),
    }
}

/// A refusal to continue from a checkpoint, with everything that differs. A difference that follows from another one is left
/// out: with another --subset the rows are others too.
pub fn another_run(checkpoint: &str, differences: &[Difference]) -> Error {
    let is_said = |difference: &&Difference| difference.saved != difference.now;
    let said: Vec<&Difference> = differences.iter().filter(is_said).collect();
    let told = if said.is_empty() { differences.iter().collect() } else { said };
    let clauses: Vec<String> = told.iter().map(|difference| clause(difference)).collect();
    let advice = if told.iter().all(|difference| difference.saved == difference.now) {
        "to train on what is there now, begin a new run in another --output-dir"
    } else {
        "leave these flags out, or begin a new run in another --output-dir"
    };
    anyhow!(
        "cannot resume from {checkpoint}, as the run would not be the same: {}; {advice}",
        clauses.join("; ")
    )
}

fn clause(difference: &Difference) -> String {
    let is_argument = difference.key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let key = if is_argument { flag(&difference.key) } else { difference.key.clone() };
    match &difference.now {
        // Something that has no name to show.
        Some(now) if now.is_empty() => format!("{key} changed"),
        _ => Difference { key, ..difference.clone() }.to_string(),
    }
}

/// An issue of the engine's arguments, which begins with an argument's name, with the flag instead.
fn named(issue: &str) -> String {
    match issue.split_once(' ') {
        Some((argument, rest)) => format!("{} {rest}", flag(argument)),
        None => issue.to_owned(),
    }
}

/// A sink that hands events on with flags in place of the engine's arguments.
pub struct InFlags<S>(pub S);

impl<S: EventSink> EventSink for InFlags<S> {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        let Event::Warning(Warning::ArgumentsChanged { changes }) = event else { return self.0.event(event) };
        let in_flags =
            |change: &ArgumentChange| ArgumentChange { name: flag(&change.name), ..change.clone() };
        let changes = changes.iter().map(in_flags).collect();
        self.0.event(&Event::Warning(Warning::ArgumentsChanged { changes }))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use trainer_core::TrainingArguments;

    use super::*;
    use crate::cli::Finetune;

    #[test]
    fn every_argument_that_a_message_may_name_has_a_flag() {
        let json = serde_json::to_value(TrainingArguments::default()).unwrap();
        let command = Finetune::command();
        let known: Vec<&str> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
        let names = json.as_object().unwrap().iter().flat_map(|(name, value)| match value.as_object() {
            Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
            None => vec![name.clone()],
        });
        // No flag sets these.
        let fixed = ["adam_beta1", "adam_beta2", "adam_epsilon", "metric_for_best_model"];
        for name in names.filter(|name| !fixed.contains(&name.as_str())) {
            assert!(known.contains(&flag(&name).trim_start_matches('-')), "{name}: {}", flag(&name));
        }
    }

    #[test]
    fn what_follows_from_another_difference_is_left_out() {
        let difference = |key: &str, saved: &str, now: &str| Difference {
            key: key.into(),
            saved: Some(saved.into()),
            now: Some(now.into()),
        };
        let rows = [difference("--dataset", "a", "a"), difference("the rows of the splits", "", "")];
        let alone = another_run("checkpoint-4", &rows).to_string();
        assert!(
            alone.contains(
                "the content of --dataset (a) has changed; the rows of the splits changed; to train"
            ),
            "{alone}"
        );
        let with_subset =
            [rows.to_vec(), vec![difference("--subset", "8", "9"), difference("seed", "1", "2")]].concat();
        let message = another_run("checkpoint-4", &with_subset).to_string();
        assert!(
            message.ends_with(
                "same: --subset was 8 and is now 9; --seed was 1 and is now 2; leave these flags out, or \
            begin a new run in another --output-dir"
            ),
            "{message}"
        );
    }

    #[test]
    fn issues_name_flags() {
        let arguments = TrainingArguments { warmup_ratio: 2.0, max_seconds: Some(0.0), ..Default::default() };
        let message = error(arguments.validate().unwrap_err()).to_string();
        assert_eq!(message, "--warmup-ratio must be in [0, 1], got 2; --max-time must be above 0, got 0");
    }
}
