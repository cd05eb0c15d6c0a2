//! BLEU as sacreBLEU 2.6 computes it: words of mteval-v13a, exponential smoothing, mixed case.
//!
//! See [Post, 2018](https://aclanthology.org/W18-6319). The score is between 0 and 100.

use crate::error::{Result, check};
use crate::ngrams::Matches;
use crate::whitespace;

/// The signature that sacreBLEU prints for these options. `nrefs` is the number of references of each picture, or `var` if it
/// varies.
pub fn signature<R>(references: &[Vec<R>]) -> String {
    let mut counts = references.iter().map(Vec::len);
    let first = counts.next().unwrap_or(0);
    let nrefs = if counts.all(|count| count == first) { first.to_string() } else { "var".to_owned() };
    format!("nrefs:{nrefs}|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0")
}

/// BLEU of a corpus of captions, as text, against the references of each.
///
/// # Errors
/// If a caption has no references, or there are no captions.
pub fn sacrebleu<S: AsRef<str>, R: AsRef<str>>(candidates: &[S], references: &[Vec<R>]) -> Result<f64> {
    check(candidates, references)?;
    let mut corpus = Matches::default();
    for (candidate, references) in candidates.iter().zip(references) {
        let references: Vec<_> =
            references.iter().map(|reference| tokenize_13a(reference.as_ref())).collect();
        corpus.add(&Matches::new(&tokenize_13a(candidate.as_ref()), &references));
    }
    Ok(from_matches(&corpus))
}

fn from_matches(matches: &Matches) -> f64 {
    if matches.correct.iter().all(|count| *count == 0) {
        return 0.0;
    }
    let (c, r) = (matches.length as f64, matches.reference_length as f64);
    let brevity = if c < r { (1.0 - r / c).exp() } else { 1.0 };
    let mut smoothing = 1.0;
    let mut logarithms = 0.0;
    for (correct, total) in matches.correct.into_iter().zip(matches.total) {
        if total == 0 {
            // No caption is long enough for a 4-gram: BLEU is undefined, and 0 by convention.
            return 0.0;
        }
        let correct = if correct == 0 {
            smoothing *= 2.0;
            1.0 / smoothing
        } else {
            correct as f64
        };
        logarithms += (100.0 * correct / total as f64).ln();
    }
    brevity * (logarithms / 4.0).exp()
}

/// Splits a text into words as mteval-v13a does.
pub fn tokenize_13a(line: &str) -> Vec<String> {
    let mut line = line
        .trim_end_matches(whitespace::is_space)
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        line = line.replace(entity, character);
    }
    let mut spaced: Vec<char> = vec![' '];
    for c in line.chars() {
        match c {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => spaced.extend([' ', c, ' ']),
            _ => spaced.push(c),
        }
    }
    spaced.push(' ');
    let mark = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let spaced = pairs(&spaced, |a, b| (!digit(a) && mark(b)).then(|| vec![a, ' ', b, ' ']));
    let spaced = pairs(&spaced, |a, b| (mark(a) && !digit(b)).then(|| vec![' ', a, ' ', b]));
    let spaced = pairs(&spaced, |a, b| (digit(a) && b == '-').then(|| vec![a, ' ', b, ' ']));
    let spaced: String = spaced.into_iter().collect();
    whitespace::split(&spaced).map(str::to_owned).collect()
}

/// Replaces pairs of neighbours from left to right, each character at most once, as a regular expression does.
fn pairs(text: &[char], replace: impl Fn(char, char) -> Option<Vec<char>>) -> Vec<char> {
    let mut out = Vec::with_capacity(2 * text.len());
    let mut at = 0;
    while at < text.len() {
        let replacement = text.get(at + 1).and_then(|next| replace(text[at], *next));
        match replacement {
            Some(characters) => {
                out.extend(characters);
                at += 2;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}
