use std::sync::Arc;

use anyhow::{Result, bail};
use caption_data::{
    BadRow, ByPicture, CaptionSource, ImageProcessor, Inspection, Split, Subset, TokenCuts, split,
    split_by_picture,
};
use indicatif::ProgressStyle;
use serde_json::json;

use crate::hub::Location;
use crate::open::{self, Dataset};
use crate::options::{DataOptions, OnBadRow, SplitBy};
use crate::pictures::with_flag;
use crate::terminal::progress_bar;

/// Maximum number of bad rows that a message lists.
const NAMED: usize = 20;

/// The rows of a dataset that a run uses: checked, selected and split.
pub(super) struct Rows {
    /// The usable rows.
    pub source: Arc<dyn CaptionSource>,
    /// The dataset's commit, if it is from the hub.
    pub commit: Option<String>,
    /// A fingerprint for each row's picture; equal for rows with the same picture.
    pub pictures: Vec<u128>,
    /// Rows for training, validation and test.
    pub split: Split,
    /// Unusable rows.
    pub skipped: Vec<BadRow>,
    /// The number of rows beyond --subset.
    pub beyond: usize,
}

impl Rows {
    /// Opens the dataset, checks each of its rows, and splits the rows that a model with this `processor` can
    /// use.
    ///
    /// # Errors
    /// If the dataset is missing or has no usable rows, if a row is unusable with `--on-bad-row stop`, or if
    /// there are too few rows for the split.
    pub(super) fn open(data: &DataOptions, processor: &ImageProcessor) -> Result<Self> {
        let Dataset { source: all, commit } = open::dataset(&data.dataset, &data.source_options())?;
        let count = data.most_rows().map_or(all.len(), |most| most.min(all.len()));
        let beyond = all.len() - count;
        let source: Arc<dyn CaptionSource> =
            if beyond > 0 { Arc::new(Subset::first(all, count)) } else { all };
        // The embedded dataset is drawn by code: no picture is broken, and all are different.
        let Inspection { pictures, bad } = match data.dataset {
            Location::Embedded => {
                Inspection { pictures: (0..count as u128).map(Some).collect(), bad: Vec::new() }
            }
            _ => inspect(&source, processor)?,
        };
        let usable: Vec<usize> = (0..count).filter(|row| pictures[*row].is_some()).collect();
        if !bad.is_empty() && (data.on_bad_row == OnBadRow::Stop || usable.is_empty()) {
            bail!("{}", refusal(&bad, count, data.on_bad_row));
        }
        let pictures: Vec<u128> = pictures.into_iter().flatten().collect();
        let source: Arc<dyn CaptionSource> =
            if bad.is_empty() { source } else { Arc::new(Subset::new(source, usable)?) };
        let (source, pictures) = match data.split_by {
            SplitBy::Row => (source, pictures),
            SplitBy::Picture => by_picture(source, &pictures)?,
        };
        let shares = [data.split.train, data.split.validation, data.split.test];
        let split = match data.split_by {
            SplitBy::Row => split(source.len(), shares, data.split_seed)?,
            SplitBy::Picture => split_by_picture(&pictures, shares, data.split_seed)?,
        };
        Ok(Self { source, commit, pictures, split, skipped: bad, beyond })
    }
}

/// Refuses captions of which the model's tokenizer knows no word.
///
/// # Errors
/// If every caption is `[UNK]` alone.
pub(super) fn check_words(model: &str, cuts: TokenCuts) -> Result<()> {
    if cuts.captions > 0 && cuts.unknown_captions == cuts.captions {
        bail!(
            "the tokenizer of {model} knows no word of the {} captions, each is [UNK] alone: choose another \
             --model, or another column with --caption-column",
            cuts.captions
        );
    }
    Ok(())
}

/// The lines of the file that lists skipped rows.
pub(super) fn skipped_lines(skipped: &[BadRow]) -> String {
    let line = |bad: &BadRow| json!({ "row": bad.row, "reason": bad.error.to_string() });
    skipped.iter().map(|bad| format!("{}\n", line(bad))).collect()
}

/// Checks every row, with a progress bar.
fn inspect(source: &Arc<dyn CaptionSource>, processor: &ImageProcessor) -> Result<Inspection> {
    let bar = progress_bar(source.len())
        .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
        .with_message("rows checked");
    let threads = rayon::current_num_threads();
    let inspection =
        Inspection::new(Arc::clone(source), processor.clone(), threads, |rows| bar.inc(rows as u64))?;
    bar.finish_and_clear();
    Ok(inspection)
}

/// Groups rows with the same picture and prompt into one row.
fn by_picture(
    source: Arc<dyn CaptionSource>,
    pictures: &[u128],
) -> Result<(Arc<dyn CaptionSource>, Vec<u128>)> {
    let by_picture = ByPicture::new(source, pictures)?;
    let pictures = by_picture.first_rows().into_iter().map(|row| pictures[row]).collect();
    Ok((Arc::new(by_picture), pictures))
}

/// The error about unusable rows: the first ones with their problems, their number, and what to do.
fn refusal(bad: &[BadRow], rows: usize, on_bad_row: OnBadRow) -> String {
    let named: Vec<String> =
        bad.iter().take(NAMED).map(|bad| format!("\n  {}", with_flag(&bad.error))).collect();
    let more = match bad.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let advice = match on_bad_row {
        OnBadRow::Stop => "mend them, or leave them out with --on-bad-row skip",
        OnBadRow::Skip => "no row is left to train on",
    };
    format!(
        "{} of {rows} rows cannot be used (rows count from 0):{}{more}\n{advice}",
        bad.len(),
        named.concat()
    )
}

#[cfg(test)]
mod tests {
    use caption_data::Error;

    use super::*;

    #[test]
    fn a_refusal_names_twenty_rows_and_counts_the_others() {
        let bad = |row| BadRow {
            row,
            error: Error::Row { dataset: "a".into(), row, error: Box::new(Error::BlankCaption) },
        };
        let bad: Vec<BadRow> = (0..30).map(bad).collect();
        let text = refusal(&bad, 90, OnBadRow::Stop);
        assert!(
            text.starts_with("30 of 90 rows cannot be used (rows count from 0):\n  row 0 of a"),
            "{text}"
        );
        assert!(text.contains("row 19 of a") && !text.contains("row 20 of a"), "{text}");
        assert!(text.contains("and 10 more") && text.ends_with("--on-bad-row skip"), "{text}");
        assert!(!refusal(&bad[..20], 90, OnBadRow::Skip).contains("more"));
    }

    #[test]
    fn captions_without_any_known_word_are_refused() {
        let cuts =
            |captions, unknown_captions| TokenCuts { captions, unknown_captions, ..TokenCuts::default() };
        let text = check_words("git", cuts(12, 12)).unwrap_err().to_string();
        assert!(text.starts_with("the tokenizer of git knows no word of the 12 captions"), "{text}");
        assert!(text.contains("--model") && text.contains("--caption-column"), "{text}");
        assert!(check_words("git", cuts(12, 11)).is_ok() && check_words("git", cuts(0, 0)).is_ok());
    }
}
