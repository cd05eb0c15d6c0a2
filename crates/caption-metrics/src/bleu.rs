//! BLEU-1 to BLEU-4, with the results of pycocoevalcap 1.2.
//!
//! The geometric mean of the corpus' clipped n-gram precisions p₁…pₙ, times the brevity penalty `exp(1 - r/c)` if the
//! captions' total length c is below the total length r of the nearest references
//! ([Papineni et al., 2002](https://aclanthology.org/P02-1040)). There is no smoothing, but terms of 1e-15 and 1e-9 prevent
//! divisions by zero.

use crate::error::{Result, check};
use crate::ngrams::Matches;

/// BLEU of a corpus and of each caption, from 0 to 1, higher is better. Index 0 is BLEU-1.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// BLEU of the corpus, which is not the mean of the captions' BLEU.
    pub corpus: [f64; 4],
    /// BLEU of each caption alone. A caption of fewer than n words has an n-gram precision of 1e-6, from the terms that
    /// prevent divisions by zero: three words against themselves have BLEU-4 0.0316.
    pub each: Vec<[f64; 4]>,
}

/// BLEU of captions, split into words, against the references of each.
///
/// # Errors
/// If a caption has no references, or there are no captions.
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
