//! CIDEr-D as pycocoevalcap 1.2 computes it (there it is called CIDEr).
//!
//! Captions and references become vectors of n-gram counts, weighted by the n-gram's inverse document frequency: the
//! logarithm of the number of pictures over the number of pictures with a reference that has it. Their cosine similarity,
//! with counts clipped to the reference's and a Gaussian penalty (σ = 6) on the difference in length, is averaged over n = 1
//! to 4 and the references, and multiplied by 10 ([Vedantam et al., 2015](https://arxiv.org/abs/1411.5726)).
//!
//! Document frequencies are counted in the references that are passed in, so that scores of few pictures are not
//! meaningful: with one picture, every weight and so the score is 0.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Result, check};
use crate::ngrams::counts;

/// With fewer pictures than this, CIDEr-D is not meaningful.
pub const FEW_PICTURES: usize = 50;

/// Weights by n-gram, sorted, so that a sum over them has the same bits in every run.
type Weights<'a> = BTreeMap<&'a [String], f64>;

/// CIDEr-D of each caption, from 0 to 10. The score of the corpus is their mean.
///
/// # Errors
/// If a caption has no references, or there are no captions.
pub fn cider_d(candidates: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Result<Vec<f64>> {
    check(candidates, references)?;
    let pictures = (candidates.len() as f64).ln();
    let mut scores = vec![0.0; candidates.len()];
    for n in 1..=4 {
        let mut frequency: HashMap<&[String], f64> = HashMap::new();
        for references in references {
            let ngrams: HashSet<&[String]> =
                references.iter().flat_map(|reference| reference.windows(n)).collect();
            for ngram in ngrams {
                *frequency.entry(ngram).or_default() += 1.0;
            }
        }
        let rarity = |ngram: &[String]| pictures - frequency.get(ngram).map_or(0.0, |count| count.ln());
        for (score, (candidate, references)) in scores.iter_mut().zip(candidates.iter().zip(references)) {
            let ours = weighted(candidate, n, rarity);
            let sum: f64 = references
                .iter()
                .map(|reference| {
                    cosine(&ours, &weighted(reference, n, rarity)) * length_penalty(candidate, reference)
                })
                .sum();
            *score += 10.0 * sum / (4.0 * references.len() as f64);
        }
    }
    Ok(scores)
}

/// The vector of a caption: counts times inverse document frequency.
fn weighted<'a>(words: &'a [String], n: usize, rarity: impl Fn(&[String]) -> f64) -> Weights<'a> {
    counts(words, n).into_iter().map(|(ngram, count)| (ngram, count as f64 * rarity(ngram))).collect()
}

fn cosine(ours: &Weights<'_>, reference: &Weights<'_>) -> f64 {
    let norm = |vector: &Weights<'_>| vector.values().map(|x| x * x).sum::<f64>().sqrt();
    let norms = norm(ours) * norm(reference);
    let product: f64 = ours.iter().filter_map(|(ngram, x)| reference.get(ngram).map(|y| x.min(*y) * y)).sum();
    if norms == 0.0 { product } else { product / norms }
}

/// As in the package, lengths are counted in pairs of words.
fn length_penalty(candidate: &[String], reference: &[String]) -> f64 {
    const SIGMA: f64 = 6.0;
    let pairs = |words: &[String]| words.len().saturating_sub(1) as f64;
    let difference = pairs(candidate) - pairs(reference);
    (-difference * difference / (2.0 * SIGMA * SIGMA)).exp()
}
