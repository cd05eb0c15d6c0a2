//! Word and character error rate as jiwer 4 computes them.
//!
//! The edit distance (substitutions, deletions and insertions) from the references to the captions, summed over the corpus
//! and divided by the length of the references. Lower is better, and it may exceed 1. Case and punctuation matter. If all
//! references are empty, the rate is the number of insertions.
//!
//! An error rate has one reference for each picture. If there are several, [`score`](crate::score) uses the
//! first.

use crate::error::{Error, Result};
use crate::whitespace::{is_space, strip};

/// Word error rate of `(reference, caption)` pairs. Words are separated by spaces.
///
/// # Errors
/// If there is no pair.
pub fn wer<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<f64> {
    rate(pairs, words)
}

/// Character error rate of `(reference, caption)` pairs, spaces between words included. A character is a code point.
///
/// # Errors
/// If there is no pair.
pub fn cer<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<f64> {
    rate(pairs, |text| strip(text).chars().collect())
}

fn rate<'a, T: PartialEq>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    split: impl Fn(&str) -> Vec<T>,
) -> Result<f64> {
    let (mut errors, mut length, mut empty) = (0, 0, true);
    for (reference, caption) in pairs {
        let reference = split(reference);
        errors += distance(&reference, &split(caption));
        length += reference.len();
        empty = false;
    }
    match length {
        _ if empty => Err(Error::Empty),
        0 => Ok(errors as f64),
        _ => Ok(errors as f64 / length as f64),
    }
}

/// jiwer's words: runs of two or more white-space characters become one space, then the text is split at spaces only.
fn words(text: &str) -> Vec<String> {
    let mut spaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_space) {
        let (before, after) = rest.split_at(start);
        let end = after.find(|c| !is_space(c)).unwrap_or(after.len());
        spaced.push_str(before);
        spaced.push_str(if after[..end].chars().count() > 1 { " " } else { &after[..end] });
        rest = &after[end..];
    }
    spaced.push_str(rest);
    strip(&spaced).split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Levenshtein's distance.
fn distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
