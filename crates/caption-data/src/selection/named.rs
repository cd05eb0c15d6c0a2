//! Selects the files of a split by its name.

use std::collections::{BTreeMap, BTreeSet};

use super::splits::{TEST, TRAIN, VALIDATION, configuration, word_of};
use super::{Refusal, all_parts, parent, parquet_files};

/// The files of the split `split` among parquet or tar files, in their order: those whose path names the split
/// or, for `train`, the result of [`parquet_files`] if no path names it. Names are compared as `datasets` does:
/// `val` and `dev` are `validation`.
///
/// ```
/// use caption_data::selection::files_of_split;
///
/// let paths = ["data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"];
/// assert_eq!(files_of_split(&paths, "validation"), Ok(vec!["data/val-00000-of-00001.parquet"]));
/// ```
///
/// # Errors
/// [`Refusal::NoSplit`] with the existing splits; else as [`parquet_files`].
pub fn files_of_split<'a>(paths: &[&'a str], split: &str) -> Result<Vec<&'a str>, Refusal> {
    let wanted = canonical(split);
    let named: Vec<&str> =
        paths.iter().copied().filter(|path| split_name(path).is_some_and(|name| name == wanted)).collect();
    if named.is_empty() && wanted == "train" {
        return parquet_files(paths);
    }
    if named.is_empty() {
        return Err(Refusal::NoSplit { split: split.to_owned(), splits: split_names(paths) });
    }
    let mut configurations = BTreeMap::<_, Vec<&str>>::new();
    for file in named {
        configurations.entry(configuration_of(file, &wanted)).or_default().push(file);
    }
    let files = match (configurations.remove("default"), configurations.len()) {
        (Some(files), _) => files,
        (None, 1) => configurations.into_values().flatten().collect(),
        (None, _) => {
            let names = configurations.into_keys().map(|name| if name.is_empty() { "." } else { name });
            return Err(Refusal::SeveralConfigurations(names.map(str::to_owned).collect()));
        }
    };
    all_parts(&files)?;
    Ok(files)
}

/// The split that the path of a file names: `test_hard` for `data/test_hard-00000-of-00002.parquet` and for
/// `default/test_hard/0000.parquet`, which are the names that `datasets` and the hub give to files; else
/// `train`, `validation` or `test` if a part of the path contains a word for it.
pub fn split_name(path: &str) -> Option<String> {
    let by_word = || path.rsplit('/').find_map(word_of).map(canonical);
    let Some((folder, file)) = path.rsplit_once('/') else { return by_word() };
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    if let Some((name, _)) = stem.split_once("-of-").and_then(|(left, _)| left.rsplit_once('-')) {
        return Some(canonical(name));
    }
    let is_numbered = stem.len() == 4 && stem.bytes().all(|byte| byte.is_ascii_digit());
    match folder.rsplit_once('/') {
        Some((_, split)) if is_numbered => Some(canonical(of_part(split))),
        _ => by_word(),
    }
}

/// The names of all splits. Files whose paths name no split are training files.
fn split_names(paths: &[&str]) -> Vec<String> {
    let names = paths.iter().map(|path| split_name(path).unwrap_or_else(|| "train".to_owned()));
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The name that `datasets` uses for a split.
fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let is_in = |names: &[&str]| names.contains(&lower.as_str());
    if is_in(&TRAIN) {
        "train".to_owned()
    } else if is_in(&TEST) {
        "test".to_owned()
    } else if is_in(&VALIDATION) {
        "validation".to_owned()
    } else {
        name.to_owned()
    }
}

/// The folder of a path's configuration, without the folder of the split.
fn configuration_of<'a>(path: &'a str, split: &str) -> &'a str {
    let folder = parent(path);
    let (above, last) = folder.rsplit_once('/').unwrap_or(("", folder));
    if canonical(of_part(last)) == split { above } else { configuration(path) }
}

/// The split of a folder that has only the first part of a large split.
fn of_part(folder: &str) -> &str {
    folder.strip_prefix("partial-").unwrap_or(folder)
}
