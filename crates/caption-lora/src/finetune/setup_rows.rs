//! Describes which rows of its dataset a run uses, and which it leaves out.

use caption_data::{CaptionSource as _, TokenCuts};

use super::inputs::Inputs;
use crate::options::{Finetune, SplitBy};
use crate::results::SKIPPED_ROWS;

/// Lines of the set-up about the rows: several captions per row, everything that is left out, texts that are
/// truncated or unknown to the model, and pictures that are in several parts of the split. Empty for a dataset
/// that is used completely and unchanged.
pub(crate) fn rows(options: &Finetune, inputs: &Inputs) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut line = |name: &str, value: String| rows.push((name.to_owned(), value));
    let cuts = inputs.captions.cuts();
    let count = inputs.source.len();
    if cuts.captions > cuts.rows {
        let of = if cuts.rows < count {
            format!("about {:.1} a row", cuts.captions as f64 / cuts.rows as f64)
        } else {
            format!("{} of {count} rows", cuts.captions)
        };
        line("captions", format!("{of}; one of a row's is drawn each epoch, all are evaluated"));
    }
    if inputs.pictures.is_empty() {
        line("checked", format!("{} of {count} rows; the others are read when they are needed", cuts.rows));
    }
    if let Some(column) = &options.data.prompt_column {
        line("prompts", format!("column `{column}`"));
    }
    for group in inputs.source.left_out().groups() {
        line("left out", group.to_string());
    }
    if inputs.beyond > 0 {
        let most = options.data.most_rows().unwrap_or_default();
        line("left out", format!("{}: rows beyond the first {most} (--subset)", inputs.beyond));
    }
    if !inputs.skipped.is_empty() {
        let skipped = inputs.skipped.len();
        line("left out", format!("{skipped}: rows that cannot be used, listed in {SKIPPED_ROWS}"));
    }
    for words in cut(cuts, count) {
        line("note", words);
    }
    if let Some(words) = seen(options, inputs) {
        line("note", words);
    }
    rows
}

/// Describes truncated and unknown texts.
fn cut(cuts: TokenCuts, rows: usize) -> Vec<String> {
    let max = cuts.max_tokens.unwrap_or_default();
    let texts = [
        (cuts.cut_captions, format!("captions cut to {max} tokens, all the model takes")),
        (
            cuts.cut_prompts,
            format!("prompts cut, as {max} tokens are all the model takes of a prompt and its caption"),
        ),
        (
            cuts.unknown_captions,
            "captions without a word that the model's vocabulary has ([UNK] alone)".to_owned(),
        ),
    ];
    let texts = texts.into_iter().filter(|(count, _)| *count > 0);
    let looked_at = if cuts.rows < rows { " captions checked" } else { "" };
    texts.map(|(count, words)| format!("{count} of {}{looked_at}: {words}", cuts.captions)).collect()
}

/// Counts the evaluated rows whose picture is also trained on.
fn seen(options: &Finetune, inputs: &Inputs) -> Option<String> {
    let split = &inputs.rows;
    if inputs.pictures.is_empty() {
        return None;
    }
    let [validation, test] = split.trained_on(&inputs.pictures);
    if validation + test == 0 {
        return None;
    }
    debug_assert!(options.data.split_by == SplitBy::Row, "pictures are kept together");
    Some(format!(
        "{test} of {} test rows and {validation} of {} validation rows have a picture that is trained on too; \
         --split-by picture keeps the rows of a picture together",
        split.test.len(),
        split.validation.len()
    ))
}
