//! BLEU-1 to 4 as pycocoevalcap 1.2 computes them.
//!
//! Clipped n-gram precisions p₁…pₙ of the whole corpus, their geometric mean, times the brevity penalty
//! `exp(1 - r/c)` where the captions' length c is below that of the nearest references, r
//! ([Papineni et al., 2002](https://aclanthology.org/P02-1040)). Without smoothing, but for terms of 1e-15 and 1e-9
//! against divisions by zero.

use crate::error::{Result, check};
use crate::ngrams::Matches;

/// BLEU of a corpus and of its captions; index 0 is BLEU-1. From 0 to 1, higher is better.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// Of the corpus. Not the mean of the captions'.
    pub corpus: [f64; 4],
    /// Of each caption alone. Where it is shorter than n words, the terms against divisions by zero stand for the
    /// precision of its n-grams, 1e-6: three words against themselves have BLEU-4 0.0316.
    pub each: Vec<[f64; 4]>,
}

/// BLEU of captions, as words, against the references of each.
///
/// # Errors
/// If a caption has no references, or there are none.
pub fn bleu(candidates: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Result<Bleu> {
    check(candidates, references)?;
    let mut corpus = Matches::default();
    let mut each = Vec::with_capacity(candidates.len());
    for (candidate, references) in candidates.iter().zip(references) {
        let matches = Matches::new(candidate, references);
        corpus.add(&matches);
        each.push(from_matches(&matches));
    }
    Ok(Bleu { corpus: from_matches(&corpus), each })
}

fn from_matches(matches: &Matches) -> [f64; 4] {
    const SMALL: f64 = 1e-9;
    const TINY: f64 = 1e-15;
    let ratio = (matches.length as f64 + TINY) / (matches.reference_length as f64 + SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|i| {
        product *= (matches.correct[i] as f64 + TINY) / (matches.total[i] as f64 + SMALL);
        product.powf(1.0 / (i as f64 + 1.0)) * brevity
    })
}
