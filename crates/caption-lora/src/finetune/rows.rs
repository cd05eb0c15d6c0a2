use std::sync::Arc;

use anyhow::{Result, bail};
use caption_data::{
    BadRow, ByPicture, CaptionSource, ImageProcessor, Inspection, Split, Subset, TokenCuts, sample_rows,
};
use indicatif::ProgressStyle;
use serde_json::json;
use trainer_core::WindowedOrder;

use super::parts::Parts;
use crate::distributed::Team;
use crate::hub::Location;
use crate::open::{self, Dataset};
use crate::options::{DataOptions, OnBadRow, SplitBy};
use crate::pictures::with_flag;
use crate::row_order;
use crate::terminal::progress_bar;

/// Maximum number of bad rows that a message lists.
const NAMED: usize = 20;

/// The rows of a dataset that a run uses: checked, selected and split.
pub(super) struct Rows {
    /// The usable rows.
    pub source: Arc<dyn CaptionSource>,
    /// The dataset's commit, if it is from the hub.
    pub commit: Option<String>,
    /// The commits of the datasets that are named as validation and test rows, if they are from the hub.
    pub held_out_commits: [Option<String>; 2],
    /// A fingerprint for each row's picture; equal for rows with the same picture. Empty if only a sample was checked.
    pub pictures: Vec<u128>,
    /// Rows for training, validation and test.
    pub split: Split,
    /// Unusable rows.
    pub skipped: Vec<BadRow>,
    /// The number of rows beyond --subset.
    pub beyond: usize,
    /// The windows in which training rows are shuffled; `None` for all of them at once.
    pub windows: Option<Arc<WindowedOrder>>,
}

impl Rows {
    /// Opens the dataset, checks its rows, and splits those that a model with this `processor` can use.
    ///
    /// # Errors
    /// If the dataset is missing or has no usable rows, if a row is unusable with `--on-bad-row stop`, or if
    /// there are too few rows for the split.
    pub(super) fn open(data: &DataOptions, processor: &ImageProcessor, team: &Team) -> Result<Self> {
        let limit = data.data_cache.map(|cache| cache.bytes);
        let is_hub = |location: &Location| matches!(location, Location::Hub(_));
        if limit.is_some() && !is_hub(&data.dataset) && !data.named_datasets().any(is_hub) {
            bail!("--data-cache is for datasets of the hub; {} is on this machine", data.dataset);
        }
        let inputs = std::iter::once(&data.dataset).chain(data.named_datasets());
        let (mut parts, commit, beyond) = team.open(inputs, || {
            let Dataset { source: all, commit } =
                open::dataset_within(&data.dataset, &data.source_options(), limit)?;
            let count = data.most_rows().map_or(all.len(), |most| most.min(all.len()));
            let beyond = all.len() - count;
            let source: Arc<dyn CaptionSource> =
                if beyond > 0 { Arc::new(Subset::first(all, count)) } else { all };
            Ok((Parts::open(source, data)?, commit, beyond))
        })?;
        let source = Arc::clone(&parts.source);
        let (pictures, bad) = check(&source, data, processor, team)?;
        let source: Arc<dyn CaptionSource> = if bad.is_empty() {
            source
        } else {
            let is_bad = |row: &usize| bad.binary_search_by_key(row, |bad| bad.row).is_ok();
            let usable: Vec<usize> = (0..source.len()).filter(|row| !is_bad(row)).collect();
            parts.retain(&usable);
            Arc::new(Subset::new(source, usable)?)
        };
        let (source, pictures) = match data.split_by {
            SplitBy::Row => (source, pictures),
            SplitBy::Picture => by_picture(source, &pictures)?,
        };
        let mut split = parts.split(data, source.len(), &pictures)?;
        let windows = windows(&source, data, &mut split);
        let held_out_commits = parts.commits;
        Ok(Self { source, commit, held_out_commits, pictures, split, skipped: bad, beyond, windows })
    }
}

/// Checks rows, with a progress bar: returns the fingerprints of the pictures of usable rows, if all are checked, and the
/// bad rows. The processes of a job divide the rows.
fn check(
    source: &Arc<dyn CaptionSource>,
    data: &DataOptions,
    processor: &ImageProcessor,
    team: &Team,
) -> Result<(Vec<u128>, Vec<BadRow>)> {
    // The embedded dataset is generated: no picture is broken, and all pictures differ.
    if data.dataset == Location::Embedded && data.named_datasets().next().is_none() {
        return Ok(((0..source.len() as u128).collect(), Vec::new()));
    }
    let checks_all = data.checks_all(source.as_ref());
    let rows: Vec<usize> =
        if checks_all { (0..source.len()).collect() } else { sample_rows(source.as_ref()) };
    let count = rows.len();
    let Inspection { pictures, bad } = match team.workers.count() {
        1 => inspect(source, rows, processor)?,
        _ => inspect_together(source, &rows, processor, team)?,
    };
    if !bad.is_empty() && (data.on_bad_row == OnBadRow::Stop || bad.len() == count) {
        bail!("{}", refusal(&bad, count, data.on_bad_row));
    }
    let pictures = if checks_all { pictures.into_iter().flatten().collect() } else { Vec::new() };
    Ok((pictures, bad))
}

/// The windows in which training rows are shuffled, if the dataset is too large for one. The rows of the split
/// are then sorted: evaluation reads them in the order of the files, and training in the order of the windows.
fn windows(
    source: &Arc<dyn CaptionSource>,
    data: &DataOptions,
    split: &mut Split,
) -> Option<Arc<WindowedOrder>> {
    let window = data.window(source.as_ref())?;
    let shards = source.shards();
    if row_order::is_one_window(&shards, window) {
        return None;
    }
    split.train.sort_unstable();
    split.validation.sort_unstable();
    split.test.sort_unstable();
    Some(Arc::new(row_order::windows(&shards, &split.train, window)))
}

/// Refuses captions without any word of the model's vocabulary.
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
    let line = |bad: &BadRow| json!({ "row": bad.row, "reason": with_flag(&bad.error) });
    skipped.iter().map(|bad| format!("{}\n", line(bad))).collect()
}

/// Checks some rows, with a progress bar.
fn inspect(
    source: &Arc<dyn CaptionSource>,
    rows: Vec<usize>,
    processor: &ImageProcessor,
) -> Result<Inspection> {
    let bar = progress_bar(rows.len())
        .with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")?)
        .with_message("rows checked");
    let threads = rayon::current_num_threads();
    let progress = |rows| bar.inc(rows as u64);
    let inspection = Inspection::of_rows(Arc::clone(source), rows, processor.clone(), threads, progress)?;
    bar.finish_and_clear();
    Ok(inspection)
}

/// Checks some rows. Each process of a job reads a part of them.
fn inspect_together(
    source: &Arc<dyn CaptionSource>,
    rows: &[usize],
    processor: &ImageProcessor,
    team: &Team,
) -> Result<Inspection> {
    let own = rows[team.workers.share(rows.len())].to_vec();
    let Inspection { pictures, bad } = inspect(source, own, processor)?;
    let bad: Vec<usize> = bad.iter().map(|bad| bad.row).collect();
    let (pictures, bad): (Vec<_>, Vec<_>) = team.gather(&(pictures, bad))?.into_iter().unzip();
    // All processes read the bad rows again, because errors cannot be sent.
    let Inspection { bad, .. } = inspect(source, bad.concat(), processor)?;
    Ok(Inspection { pictures: pictures.concat(), bad })
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
            error: Error::Row { dataset: "a".into(), row, source: Box::new(Error::BlankCaption) },
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
    fn processes_that_divide_the_checks_find_the_same_as_one() {
        let folder = tempfile::tempdir().unwrap();
        for row in 0..9 {
            let drawing = monster_drawings::DrawingSource::default().image(row).unwrap();
            let path = folder.path().join(format!("{row}.png"));
            if row % 4 == 2 {
                std::fs::write(path, "no picture").unwrap()
            } else {
                drawing.save(path).unwrap()
            }
            std::fs::write(folder.path().join(format!("{row}.txt")), "a cat").unwrap();
        }
        let source = caption_data::open(folder.path(), &Default::default()).unwrap();
        let rows: Vec<usize> = (0..9).collect();
        let processor = ImageProcessor::default();
        let found = |Inspection { pictures, bad }: Inspection| {
            let bad = bad.into_iter().map(|bad| (bad.row, with_flag(&bad.error))).collect::<Vec<_>>();
            (pictures, bad)
        };
        let alone = found(inspect(&source, rows.clone(), &processor).unwrap());
        assert_eq!(alone.1.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2, 6]);
        let teams = trainer_core::ThreadWorkers::new(4).into_iter().map(Team::of);
        std::thread::scope(|scope| {
            let check = |team: Team| found(inspect_together(&source, &rows, &processor, &team).unwrap());
            let threads: Vec<_> = teams.map(|team| scope.spawn(move || check(team))).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), alone);
            }
        });
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
