//! The split that a path names.

use super::parent;
use crate::LeftOutReason;

/// The split of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    HeldOut,
}

pub(super) fn split_of(path: &str) -> Option<Split> {
    path.rsplit('/').find_map(|part| Some(split_word(part)?.0))
}

/// Words that name the training split.
pub(super) const TRAIN: [&str; 2] = ["train", "training"];
/// Words that name the split `test`, which is held out.
pub(super) const TEST: [&str; 4] = ["test", "testing", "eval", "evaluation"];
/// Words that name the split `validation`, which is held out.
pub(super) const VALIDATION: [&str; 4] = ["validation", "valid", "val", "dev"];

/// The word of a part of a path that names a split.
pub(super) fn word_of(part: &str) -> Option<&str> {
    split_word(part).map(|(_, word)| word)
}

/// The split that a part of a path names, and the word that names it.
fn split_word(part: &str) -> Option<(Split, &str)> {
    let find = |names: &[&str]| {
        let mut words = part.split(|c: char| !c.is_alphabetic());
        words.find(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
    };
    let training = find(&TRAIN).map(|word| (Split::Train, word));
    training.or_else(|| find(&[TEST, VALIDATION].concat()).map(|word| (Split::HeldOut, word)))
}

/// Why a path is held out, if it is.
pub(super) fn held_out(path: &str) -> Option<LeftOutReason> {
    let mut rest = path;
    loop {
        let (above, part) = rest.rsplit_once('/').unwrap_or(("", rest));
        match split_word(part) {
            Some((Split::Train, _)) => return None,
            Some((Split::HeldOut, word)) => {
                return Some(LeftOutReason::OtherSplit { part: rest.to_owned(), word: word.to_owned() });
            }
            None if above.is_empty() => return None,
            None => rest = above,
        }
    }
}

/// The folder of a path's configuration: the path without its file and the folder of the split.
pub(super) fn configuration(path: &str) -> &str {
    let folder = parent(path);
    let (above, last) = folder.rsplit_once('/').unwrap_or(("", folder));
    if split_of(last) == Some(Split::Train) { above } else { folder }
}
