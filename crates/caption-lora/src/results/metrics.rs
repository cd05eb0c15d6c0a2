//! `metrics.json`: the scores of the base model and the adapted one on the test split.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use caption_metrics::{SIGNATURES, lower_is_better, sacrebleu};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::judge::Judgement;
use crate::report::{Better, Metric};

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
    let (both, base): (Vec<&String>, Vec<&String>) =
        base.iter().partition(|reported| adapted.contains(reported));
    let adapted: Vec<&String> = adapted.iter().filter(|reported| !both.contains(reported)).collect();
    [("both models", both), ("base model", base), ("adapted model", adapted)]
        .into_iter()
        .flat_map(|(who, reported)| reported.into_iter().map(move |warning| format!("{who}: {warning}")))
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

/// Writes `metrics.json` to the folder `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn write_metrics(dir: &Path, metrics: &Metrics) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(metrics)?;
    json.push(b'\n');
    files::replace(&dir.join("metrics.json"), &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_about_both_models_are_given_once() {
        let reported = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            warnings(&reported(&["few", "same"]), &reported(&["few", "repeats"])),
            ["both models: few", "base model: same", "adapted model: repeats"]
        );
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
