//! Translates the training engine's messages for the command line: the engine names its arguments, the user
//! knows flags.

use anyhow::{Error, anyhow};
use trainer_core::{ArgumentChange, BoxError, Difference, Event, EventSink, Warning};

/// Arguments whose flags are not simply their names in kebab case.
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

/// The flag of an engine argument.
pub fn flag(argument: &str) -> String {
    let renamed = RENAMED.iter().find(|(name, _)| *name == argument);
    renamed.map_or_else(|| format!("--{}", argument.replace('_', "-")), |(_, flag)| (*flag).to_owned())
}

/// An engine error as an error of the command line, which names flags and gives advice.
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
            "no usable checkpoint in {} ({}): start the run again with --overwrite-output-dir",
            path.display(),
            damaged.join("; ")
        ),
        _ => error.into(),
    }
}

/// The error for a checkpoint of a different run, with all differences. A difference that follows from
/// another one is left out: another --subset also changes the rows.
pub fn another_run(checkpoint: &str, differences: &[Difference]) -> Error {
    let has_other_value = |difference: &&Difference| {
        // A dataset with more rows than before has other content, although no flag has changed.
        difference.saved != difference.now
            && ![&difference.saved, &difference.now].iter().any(|value| value.as_deref() == Some(""))
            && row_counts(difference).is_none()
            && !is_a_mended_dataset(difference)
    };
    let mut shown: Vec<&Difference> = differences.iter().filter(has_other_value).collect();
    let advice = if shown.is_empty() {
        shown = differences.iter().collect();
        "to train with the new content, start a new run with another --output-dir"
    } else {
        "leave these flags out, or start a new run with another --output-dir"
    };
    let clauses: Vec<String> = shown.into_iter().map(clause).collect();
    anyhow!(
        "cannot resume from {checkpoint}, as the run would not be the same: {}; {advice}",
        clauses.join("; ")
    )
}

fn clause(difference: &Difference) -> String {
    let is_argument = difference.key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let key = if is_argument { flag(&difference.key) } else { difference.key.clone() };
    match row_counts(difference) {
        Some((saved, now)) => format!("--dataset had {saved} rows, has {now}"),
        None => Difference { key, ..difference.clone() }.to_string(),
    }
}

/// The numbers of rows of a dataset before and now, if all of its rows were in use before and are now.
fn row_counts(difference: &Difference) -> Option<(usize, usize)> {
    let all = |value: &Option<String>| -> Option<usize> {
        value.as_deref()?.strip_prefix("all ")?.strip_suffix(" rows")?.parse().ok()
    };
    (difference.key == "--subset").then_some((all(&difference.saved)?, all(&difference.now)?))
}

/// Whether both values are the same dataset with different numbers of usable rows: `art (9 of 12 rows)`, or
/// `art` if all are used.
fn is_a_mended_dataset(difference: &Difference) -> bool {
    fn name(value: Option<&str>) -> Option<&str> {
        let text = value?;
        let counted = text.strip_suffix(" rows)").and_then(|text| text.rsplit_once(" ("));
        Some(counted.map_or(text, |(name, _)| name))
    }
    let (saved, now) = (name(difference.saved.as_deref()), name(difference.now.as_deref()));
    difference.key == "--dataset" && saved.is_some() && saved == now
}

/// An issue of the engine's arguments, with flags instead of argument names.
fn named(issue: &str) -> String {
    let word = |word: &str| {
        let is_argument = word.contains('_') && !word.contains('`');
        if is_argument { flag(word) } else { word.to_owned() }
    };
    issue.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A change of an engine argument as a change of its flag.
fn in_flags(change: &ArgumentChange) -> ArgumentChange {
    let value = |text: &str| match change.name.as_str() {
        // The only parameter group that a flag creates.
        "parameter_groups" => {
            let groups: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            groups[0]["lr_ratio"].as_f64().map_or("none".to_owned(), |ratio| ratio.to_string())
        }
        _ => text.to_owned(),
    };
    ArgumentChange { name: flag(&change.name), saved: value(&change.saved), now: value(&change.now) }
}

/// A sink that forwards events with flags instead of argument names.
pub struct InFlags<S>(pub S);

impl<S: EventSink> EventSink for InFlags<S> {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        let Event::Warning(Warning::ArgumentsChanged { changes }) = event else { return self.0.event(event) };
        let changes = changes.iter().map(in_flags).collect();
        self.0.event(&Event::Warning(Warning::ArgumentsChanged { changes }))
    }
}

#[cfg(test)]
mod tests {
    use trainer_core::TrainingArguments;

    use super::*;

    #[test]
    fn a_dataset_that_was_repaired_is_no_flag_to_leave_out() {
        let dataset = |saved: &str, now: &str| Difference {
            key: "--dataset".to_owned(),
            saved: Some(saved.to_owned()),
            now: Some(now.to_owned()),
        };
        for now in ["art", "art (10 of 12 rows)"] {
            let message = another_run("checkpoint-2", &[dataset("art (9 of 12 rows)", now)]).to_string();
            assert!(message.ends_with("start a new run with another --output-dir"), "{message}");
            assert!(!message.contains("leave these flags out"), "{message}");
        }
        let other = another_run("checkpoint-2", &[dataset("art", "photos")]).to_string();
        assert!(other.contains("leave these flags out"), "{other}");
    }

    #[test]
    fn differences_that_follow_from_others_are_left_out() {
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
        let grown = [&rows[..], &[difference("--subset", "all 20 rows", "all 21 rows")]].concat();
        let message = another_run("checkpoint-4", &grown).to_string();
        assert!(
            message.contains("--dataset had 20 rows, has 21; to train with the new content"),
            "{message}"
        );
        let configuration = Difference { now: None, ..difference("the adapter's configuration", "", "") };
        let tuned = [difference("--tune", "text", "full"), configuration];
        let message = another_run("checkpoint-4", &tuned).to_string();
        assert!(message.contains("same: --tune was text and is now full; leave"), "{message}");
        let with_subset =
            [rows.to_vec(), vec![difference("--subset", "8", "9"), difference("seed", "1", "2")]].concat();
        let message = another_run("checkpoint-4", &with_subset).to_string();
        assert!(
            message.ends_with(
                "same: --subset was 8 and is now 9; --seed was 1 and is now 2; leave these flags out, or start a new run with another --output-dir"
            ),
            "{message}"
        );
    }

    #[test]
    fn changes_of_the_parameter_group_are_shown_as_its_ratio() {
        let groups = r#"[{"lr_ratio":4.0,"name_contains":"lora_B","weight_decay":null}]"#;
        let name = "parameter_groups".to_owned();
        let change = in_flags(&ArgumentChange { name, saved: "[]".to_owned(), now: groups.to_owned() });
        assert_eq!(change.to_string(), "--loraplus-lr-ratio: none -> 4");
    }

    #[test]
    fn issues_name_flags() {
        let arguments = TrainingArguments { warmup_ratio: 2.0, max_seconds: Some(0.0), ..Default::default() };
        let message = error(arguments.validate().unwrap_err()).to_string();
        assert_eq!(message, "--warmup-ratio must be in [0, 1], got 2; --max-time must be above 0, got 0");
        let issue = "load_best_model_at_end needs evaluations, but eval_strategy is no";
        assert_eq!(named(issue), "--eval-strategy needs evaluations, but --eval-strategy is no");
        let issue = "lr_scheduler_kwargs.decay_ratio must be at most 1 - warmup_ratio, got 0.5";
        assert_eq!(named(issue), "--lr-decay-ratio must be at most 1 - --warmup-ratio, got 0.5");
    }
}
