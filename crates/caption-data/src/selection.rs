//! Decides by their names which files of a dataset are for training, with the same rule for folders and for the
//! hub.
//!
//! Paths are relative to the dataset, with `/` between their parts. A part belongs to a split if one of its
//! words is a name of the split, as in `datasets`: `train`, `training`; `test`, `testing`, `eval`,
//! `evaluation`, `validation`, `valid`, `val`, `dev`. Every character that is not a letter separates words:
//! `train-00000-of-00002.parquet`, `pokemon_train.parquet` and `partial-train/0000.parquet` are training
//! files. The innermost part with such a word decides, so `train-data/test.parquet` is held out.

mod kinds;
mod named;
mod splits;

use std::collections::{BTreeMap, BTreeSet};

pub use kinds::{CAPTIONS, METADATA, PICTURES, UNREAD_PICTURES, extension, is_metadata, is_picture, parent};
pub use named::{files_of_split, split_name};
use splits::{Split, configuration, held_out, split_of};

use crate::LeftOutReason;

/// Why files are not one complete training split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// All files belong to held-out splits.
    #[error(
        "all parquet files are of held-out splits (such as test and validation); to read one of them, name the file"
    )]
    HeldOut,
    /// Several folders hold a training split each.
    #[error("several folders hold a training split ({}); name one of them", .0.join(", "))]
    SeveralConfigurations(Vec<String>),
    /// No file belongs to the requested split.
    #[error("there is no split `{split}`; there are {}", .splits.join(", "))]
    NoSplit {
        /// The requested split.
        split: String,
        /// The existing splits.
        splits: Vec<String>,
    },
    /// Numbered files with a gap, for instance after an interrupted download.
    #[error("of the {total} parts of `{set}` only {have} are there; get the others")]
    Incomplete {
        /// The common beginning of the files' names.
        set: String,
        /// The number of files found.
        have: usize,
        /// The number of files expected.
        total: usize,
    },
}

/// The training split among parquet files, in their order.
///
/// These are the files of the training split, or, if no file names it, all that are not held out. They must
/// be complete and of one configuration, which means in one folder (apart from a split's own folder). If
/// there are several configurations, `default` is chosen.
///
/// ```
/// use caption_data::selection::parquet_files;
///
/// assert_eq!(parquet_files(&["test-0.parquet", "train-0.parquet"]), Ok(vec!["train-0.parquet"]));
/// assert!(parquet_files(&["train-00000-of-00002.parquet"]).is_err());
/// ```
///
/// # Errors
/// If no file is left, if files are of several configurations, or if one of several parts is missing.
pub fn parquet_files<'a>(paths: &[&'a str]) -> Result<Vec<&'a str>, Refusal> {
    let files = training_files(paths)?;
    all_parts(&files)?;
    Ok(files)
}

/// As [`parquet_files`], for a local folder: parts such as `0001.parquet` may be numbered from 1. In a download
/// they may not, since a missing first part would not be noticed.
///
/// # Errors
/// As [`parquet_files`].
pub fn local_parquet_files<'a>(paths: &[&'a str]) -> Result<Vec<&'a str>, Refusal> {
    let files = training_files(paths)?;
    check_parts(&files, true)?;
    Ok(files)
}

fn training_files<'a>(paths: &[&'a str]) -> Result<Vec<&'a str>, Refusal> {
    let of = |wanted: Option<Split>| paths.iter().copied().filter(move |path| split_of(path) == wanted);
    let training: Vec<&str> = of(Some(Split::Train)).collect();
    let files = if training.is_empty() { of(None).collect() } else { training };
    let mut configurations = BTreeMap::<_, Vec<&str>>::new();
    for file in files {
        configurations.entry(configuration(file)).or_default().push(file);
    }
    match (configurations.remove("default"), configurations.len()) {
        (Some(files), _) => Ok(files),
        (None, 0) => Err(Refusal::HeldOut),
        (None, 1) => Ok(configurations.into_values().flatten().collect()),
        (None, _) => {
            let names = configurations.into_keys().map(|name| if name.is_empty() { "." } else { name });
            Err(Refusal::SeveralConfigurations(names.map(str::to_owned).collect()))
        }
    }
}

/// Decides which files of an image folder are for training: pictures, their text files, and metadata.
///
/// Only the names of folders determine the split, since a picture may have any name. Files in held-out folders
/// are left out. If there are pictures in training folders, the pictures elsewhere are left out too, with their
/// texts. Metadata elsewhere may describe pictures of every folder, and are left out only if training folders
/// have their own.
///
/// ```
/// use caption_data::selection::image_folder;
///
/// let paths = ["metadata.jsonl", "train/1.png", "test/1.png", "logo.png"];
/// let is_trained_on = image_folder(&paths);
/// assert_eq!(paths.map(is_trained_on), [true, true, false, false]);
/// ```
pub fn image_folder(paths: &[&str]) -> impl Fn(&str) -> bool + use<> {
    let why = why_not_of_image_folder(paths);
    move |path| why(path).is_none()
}

/// As [`image_folder`], with the reason why a file is left out: `None` for a file that is trained on.
pub fn why_not_of_image_folder(paths: &[&str]) -> impl Fn(&str) -> Option<LeftOutReason> + use<> {
    why_not_of_names(paths.iter())
}

/// As [`why_not_of_image_folder`], for paths that need not be in memory.
pub(crate) fn why_not_of_names<S: AsRef<str>>(paths: impl Iterator<Item = S>) -> Box<WhyNot> {
    let (mut pictures, mut metadata) = (false, false);
    for path in paths {
        let path = path.as_ref();
        if split_of(parent(path)) == Some(Split::Train) {
            pictures |= is_picture(path);
            metadata |= is_metadata(path);
        }
    }
    Box::new(move |path| match split_of(parent(path)) {
        Some(Split::Train) => None,
        Some(Split::HeldOut) => held_out(parent(path)),
        None if if is_metadata(path) { metadata } else { pictures } => Some(LeftOutReason::OutsideOfTraining),
        None => None,
    })
}

/// The reason why a file is left out, by its name; `None` if it is used.
pub(crate) type WhyNot = dyn Fn(&str) -> Option<LeftOutReason>;

/// Why [`parquet_files`] did not choose a parquet or Arrow file.
pub fn why_not_of_tables(path: &str) -> LeftOutReason {
    held_out(path).unwrap_or(LeftOutReason::OutsideOfTraining)
}

/// Refuses numbered files with a gap, for instance after an interrupted download.
///
/// Parts are numbered as in `train-00000-of-00002.parquet`, or by four digits as in `train/0000.parquet`,
/// where the last file present determines how many there should be.
///
/// # Errors
/// If a part is missing.
pub fn all_parts(paths: &[&str]) -> Result<(), Refusal> {
    check_parts(paths, false)
}

fn check_parts(paths: &[&str], may_begin_at_1: bool) -> Result<(), Refusal> {
    let mut sets = BTreeMap::<_, BTreeSet<usize>>::new();
    for (set, index, total) in paths.iter().filter_map(|path| part(path)) {
        sets.entry((set, total)).or_default().insert(index);
    }
    for ((set, total), indices) in sets {
        let is_whole_from_1 = indices.first() == Some(&1) && indices.last() == Some(&indices.len());
        if may_begin_at_1 && total.is_none() && is_whole_from_1 {
            continue;
        }
        let total = total.unwrap_or_else(|| indices.last().map_or(0, |last| last + 1));
        if indices.len() < total {
            let set = if set.is_empty() { "./" } else { set }.to_owned();
            return Err(Refusal::Incomplete { set, have: indices.len(), total });
        }
    }
    Ok(())
}

/// Parses `data/train-00001-of-00004-9f0c.parquet` as (`data/train`, 1, Some(4)) and
/// `default/train/0001.parquet` as (`default/train/`, 1, None).
fn part(path: &str) -> Option<(&str, usize, Option<usize>)> {
    let stem = path.rsplit_once('.')?.0;
    if let Some((left, right)) = stem.rsplit_once("-of-") {
        let (set, index) = left.rsplit_once('-')?;
        return Some((set, index.parse().ok()?, Some(right.split('-').next()?.parse().ok()?)));
    }
    let file = stem.rsplit('/').next()?;
    // Other numbers, such as years, need not begin at 0.
    let is_part = file.len() == 4 && file.starts_with('0');
    Some((&stem[..stem.len() - file.len()], file.parse().ok().filter(|_| is_part)?, None))
}
