//! The results of a run besides its adapter: metrics, captions, curves, the report.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::path::Path;

use anyhow::Result;
use caption_data::CaptionSource;
use caption_metrics::{SIGNATURES, lower_is_better, sacrebleu};
use image::imageops::FilterType;
use serde::{Deserialize, Serialize};
use trainer_core::{LogEntry, TrainerState};

use crate::files;
use crate::judge::Judgement;
use crate::options::{Finetune, OnBadRow, ReportTo, Tune};
use crate::report::{self, Better, Example, History, Metric};

/// Results of the base model and the adapted one on the test split: `metrics.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Before fine-tuning.
    pub base: BTreeMap<String, Option<f64>>,
    /// After fine-tuning.
    pub adapter: BTreeMap<String, Option<f64>>,
    /// How the scores were computed, by key.
    #[serde(default)]
    pub signatures: BTreeMap<String, String>,
    /// Remarks about the numbers, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Metrics {
    /// The results of both models; a value that is not finite is `null` in the file.
    pub fn new(base: &Judgement, adapter: &Judgement) -> Self {
        let finite = |judgement: &Judgement| {
            let metrics = judgement.metrics().into_iter();
            metrics.map(|(key, value)| (key.to_owned(), value.is_finite().then_some(value))).collect()
        };
        let mut signatures: BTreeMap<String, String> =
            SIGNATURES.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let references: Vec<Vec<()>> = base.references.iter().map(|count| vec![(); *count]).collect();
        signatures.insert("sacrebleu".to_owned(), sacrebleu::signature(&references));
        let warnings = warnings(&base.warnings(), &adapter.warnings());
        Self { base: finite(base), adapter: finite(adapter), signatures, warnings }
    }

    /// The results in the order in which the report and the console show them.
    pub fn rows(&self) -> Vec<Metric> {
        let metric = |(key, name): &(&str, &str)| {
            let value = |of: &BTreeMap<String, Option<f64>>| of.get(*key).copied().flatten();
            let (base, adapter) = (value(&self.base), value(&self.adapter));
            (base.is_some() || adapter.is_some()).then(|| Metric {
                key: (*key).to_owned(),
                name: (*name).to_owned(),
                base,
                adapter,
                better: direction(key),
            })
        };
        NAMES.iter().filter_map(metric).collect()
    }
}

/// A table for the console, followed by the warnings.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        writeln!(f, "{:>34}  {:>10} {:>10}", "", "base", "adapted")?;
        for Metric { name, base, adapter, better, .. } in self.rows() {
            let direction = match better {
                Better::Lower => "lower is better",
                Better::Higher => "higher is better",
                Better::Neither => "neither way is better",
            };
            writeln!(f, "{name:>34}  {:>10} {:>10}  {direction}", number(base), number(adapter))?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "note: {warning}"))
    }
}

/// The warnings about either model; one that applies to both is given once.
fn warnings(base: &[String], adapted: &[String]) -> Vec<String> {
    let (both, base): (Vec<&String>, Vec<&String>) = base.iter().partition(|told| adapted.contains(told));
    let adapted: Vec<&String> = adapted.iter().filter(|told| !both.contains(told)).collect();
    [("both models", both), ("base model", base), ("adapted model", adapted)]
        .into_iter()
        .flat_map(|(who, told)| told.into_iter().map(move |warning| format!("{who}: {warning}")))
        .collect()
}

/// The keys of `metrics.json` and their display names, the most important first.
const NAMES: [(&str, &str); 17] = [
    ("test_loss", "Test loss"),
    ("perplexity", "Perplexity"),
    ("cider_d", "CIDEr-D"),
    ("bleu_4", "BLEU-4"),
    ("rouge_l", "ROUGE-L"),
    ("sacrebleu", "sacreBLEU"),
    ("bleu_1", "BLEU-1"),
    ("bleu_2", "BLEU-2"),
    ("bleu_3", "BLEU-3"),
    ("wer", "Word error rate"),
    ("cer", "Character error rate"),
    ("distinct_1", "Distinct words"),
    ("distinct_2", "Distinct word pairs"),
    ("mean_length", "Words a caption"),
    ("exact_repeats", "Captions of an earlier picture"),
    ("repeated_ngrams", "Captions that repeat words"),
    ("shuffled_loss_ratio", "Loss with shuffled pictures / loss"),
];

/// Which way a result is better; neither for diversity and length.
fn direction(key: &str) -> Better {
    match key {
        "distinct_1" | "distinct_2" | "mean_length" => Better::Neither,
        _ if lower_is_better(key) => Better::Lower,
        _ => Better::Higher,
    }
}

/// One test picture: a line of `captions.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct CaptionLine {
    /// Row of the dataset.
    pub row: usize,
    /// The prompt of both models, for a dataset with prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The dataset's caption; the first if there are several.
    pub reference: String,
    /// All captions of the dataset, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The base model's caption.
    pub base: String,
    /// The adapted model's caption.
    pub adapter: String,
}

impl CaptionLine {
    /// The prompt and all reference captions, for display.
    pub fn shown(&self) -> String {
        let references =
            if self.references.is_empty() { self.reference.clone() } else { self.references.join(" / ") };
        match &self.prompt {
            Some(prompt) => format!("{prompt} {references}"),
            None => references,
        }
    }
}

/// The lines of `captions.jsonl`: some rows, their reference captions, and the captions of both models.
///
/// # Errors
/// If a reference caption cannot be read.
pub fn caption_lines(
    source: &dyn CaptionSource,
    rows: &[usize],
    base: &Judgement,
    adapter: &Judgement,
) -> Result<Vec<CaptionLine>> {
    let said = base.captions.iter().cloned().zip(adapter.captions.iter().cloned());
    rows.iter()
        .zip(said)
        .map(|(&row, (base, adapter))| {
            let (prompt, mut references) = (source.prompt(row)?, source.captions(row)?);
            let reference = references[0].clone();
            if references.len() == 1 {
                references.clear();
            }
            Ok(CaptionLine { row, prompt, reference, references, base, adapter })
        })
        .collect()
}

/// The file in the output folder that lists skipped rows.
pub const SKIPPED_ROWS: &str = "skipped_rows.jsonl";

/// The names in the output folder that a run with these options writes during training.
pub fn log_names(options: &Finetune) -> Vec<&'static str> {
    let mut names = vec!["trainer_state.json", "log.jsonl"];
    names.extend(options.run.report_to.iter().map(|format| match format {
        ReportTo::Csv => "log.csv",
        ReportTo::Tensorboard => "tensorboard",
    }));
    names.extend(options.data.eval_captions.map(|_| "eval_captions.jsonl"));
    names.extend((options.data.on_bad_row == OnBadRow::Skip).then_some(SKIPPED_ROWS));
    names
}

/// The names in the output folder that a run with these options writes after training.
pub fn result_names(options: &Finetune) -> Vec<&'static str> {
    let model = if options.lora.tune == Tune::Full { "model" } else { "adapter" };
    [&[model, "metrics.json", "captions.jsonl"], report::FILES].concat()
}

/// The lines of `eval_captions.jsonl` up to the checkpoint at `step`. A run that is resumed there writes the
/// later ones again.
pub fn lines_until(step: usize, lines: &str) -> String {
    let is_kept = |line: &&str| {
        let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
        line.and_then(|line| line["step"].as_u64()).is_some_and(|of| of <= step as u64)
    };
    lines.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
}

/// Writes `metrics.json` to the folder `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn write_metrics(dir: &Path, metrics: &Metrics) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(metrics)?;
    json.push(b'\n');
    files::replace(&dir.join("metrics.json"), &json)
}

/// Writes `captions.jsonl` to the folder `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn write_captions(dir: &Path, lines: &[CaptionLine]) -> Result<()> {
    let mut json = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut json, line)?;
        json.push(b'\n');
    }
    files::replace(&dir.join("captions.jsonl"), &json)
}

/// The learning curves of a run.
pub fn history(state: &TrainerState) -> History {
    let entries = state.log_history.iter().filter_map(|entry| match *entry {
        LogEntry::Train { loss, grad_norm, learning_rate, epoch, step } => Some(report::LogEntry {
            step,
            epoch,
            loss: Some(loss),
            eval_loss: None,
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
        }),
        LogEntry::Evaluation { eval_loss, epoch, step, .. } => {
            Some(report::LogEntry { step, epoch, eval_loss: Some(eval_loss), ..report::LogEntry::default() })
        }
        _ => None,
    });
    History { entries: entries.collect(), best_step: state.best_global_step }
}

/// The report's gallery: thumbnails of the pictures, and the ROUGE-L of each caption of the base and the
/// adapted model.
///
/// # Errors
/// If a picture cannot be read.
pub fn gallery(
    source: &dyn CaptionSource,
    lines: &[CaptionLine],
    scores: [&[f64]; 2],
) -> Result<Vec<Example>> {
    const THUMBNAIL: u32 = 200;
    let scores = scores[0].iter().zip(scores[1]);
    lines
        .iter()
        .zip(scores)
        .map(|(line, (&base_score, &adapter_score))| {
            let picture = image::DynamicImage::ImageRgb8(source.image(line.row)?);
            let thumbnail = picture.resize(THUMBNAIL, THUMBNAIL, FilterType::Triangle);
            let mut image_png = Vec::new();
            thumbnail.write_to(&mut Cursor::new(&mut image_png), image::ImageFormat::Png)?;
            let reference = line.shown();
            let CaptionLine { row, base, adapter, .. } = line.clone();
            Ok(Example { row, image_png, reference, base, adapter, base_score, adapter_score })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_about_both_models_are_given_once() {
        let told = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            warnings(&told(&["few", "same"]), &told(&["few", "repeats"])),
            ["both models: few", "base model: same", "adapted model: repeats"]
        );
    }

    #[test]
    fn a_resumed_run_keeps_the_captions_up_to_its_checkpoint() {
        let lines = "{\"step\":2}\n{\"step\":4}\n{\"step\":5}\n{\"step\":8}\n{\"st";
        assert_eq!(lines_until(4, lines), "{\"step\":2}\n{\"step\":4}\n");
    }

    #[test]
    fn every_line_of_the_table_says_which_way_is_better() {
        let keys = NAMES.map(|(key, _)| (key.to_owned(), Some(1.0)));
        let table = Metrics { adapter: BTreeMap::from(keys), ..Metrics::default() }.to_string();
        let lines: Vec<_> = table.lines().skip(1).collect();
        assert!(
            lines.len() == NAMES.len() && lines.iter().all(|line| line.ends_with(" is better")),
            "{table}"
        );
        let line = |name: &str| lines.iter().find(|line| line.contains(name)).copied().unwrap_or_default();
        assert!(line("Word error rate").contains("lower") && line("CIDEr-D").contains("higher"), "{table}");
        assert!(lines.iter().all(|line| line.len() <= 80), "{table}");
    }
}
