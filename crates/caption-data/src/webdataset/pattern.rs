//! Patterns that name several files: `shards/{0000..0099}.tar`, `train-{a,b}.tar`, `*.tar`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Whether a text names several files, with `*`, `?`, `[...]`, `{0000..0099}` or `{a,b}`.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[']) || braces(text).is_some()
}

/// The files that a pattern names: for braces in the order of the numbers or words, for `*`, `?` and `[...]`
/// sorted by name.
///
/// # Errors
/// If a file that braces name does not exist, or if no file matches.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in expand_braces(pattern) {
        let path = PathBuf::from(&name);
        if path.exists() || !name.contains(['*', '?', '[']) {
            files.push(path);
            continue;
        }
        let refuse = |why: String| Error::NoRows { dataset: pattern.to_owned(), why };
        let found = glob::glob(&name).map_err(|error| refuse(format!("it is not a pattern: {error}")))?;
        files.extend(found.filter_map(std::result::Result::ok));
    }
    if let Some(missing) = files.iter().find(|file| !file.exists()) {
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::Io { path: missing.clone(), source: error });
    }
    if files.is_empty() {
        return Err(Error::NoRows { dataset: pattern.to_owned(), why: "no file matches".to_owned() });
    }
    Ok(files)
}

/// The text of a path that is a pattern and does not exist as a file; `None` for other paths.
pub(crate) fn names_files(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| !path.exists() && is_pattern(text))
}

/// The text before the first braces, the choices in them, and the text after them.
fn braces(text: &str) -> Option<(&str, Vec<String>, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (inside, behind) = rest.split_once('}')?;
    let choices = match inside.split_once("..") {
        Some((first, last)) => {
            let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            let width = if first.starts_with('0') { first.len() } else { 0 };
            (from..=to).map(|number| format!("{number:0width$}")).collect()
        }
        None if inside.contains(',') => inside.split(',').map(str::to_owned).collect(),
        None => return None,
    };
    Some((before, choices, behind))
}

fn expand_braces(text: &str) -> Vec<String> {
    let Some((before, choices, behind)) = braces(text) else { return vec![text.to_owned()] };
    let behind = expand_braces(behind);
    let join =
        |choice: &String| behind.iter().map(|rest| format!("{before}{choice}{rest}")).collect::<Vec<_>>();
    choices.iter().flat_map(join).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails panics")]
mod tests {
    use super::*;

    #[test]
    fn braces_are_ranges_and_choices() {
        assert_eq!(expand_braces("a/{08..11}.tar"), ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]);
        assert_eq!(expand_braces("{a,b}-{0..1}"), ["a-0", "a-1", "b-0", "b-1"]);
        for name in ["a.tar", "{a}.tar", "{a..b}.tar", "a{"] {
            assert_eq!(expand_braces(name), [name]);
            assert!(!is_pattern(name));
        }
    }

    #[test]
    fn every_file_of_a_range_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["0.tar", "1.tar", "3.tar"] {
            std::fs::write(at(name), "").unwrap();
        }
        let expand = |pattern: &str| expand(at(pattern).to_str().unwrap());
        assert_eq!(expand("{0..1}.tar").unwrap(), [at("0.tar"), at("1.tar")]);
        assert_eq!(expand("*.tar").unwrap(), [at("0.tar"), at("1.tar"), at("3.tar")]);
        let missing = expand("{0..3}.tar").unwrap_err().to_string();
        assert!(missing.contains("2.tar"), "{missing}");
        assert!(expand("*.zip").unwrap_err().to_string().contains("no file matches"));
    }
}
