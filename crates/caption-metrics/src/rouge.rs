//! ROUGE-L as pycocoevalcap 1.2 computes it.
//!
//! If the longest common subsequence of a caption of `c` words and a reference of `r` words has `l` words, precision is `l/c`
//! and recall is `l/r`. The score is the F-measure, with β = 1.2, of the best precision and the best recall over the references
//! ([Lin, 2004](https://aclanthology.org/W04-1013)).

use crate::error::{Result, check};

/// ROUGE-L of each caption, from 0 to 1. The score of the corpus is their mean. As in the package, a caption without words
/// counts as one empty word.
///
/// # Errors
/// If a caption has no references, or there are no captions.
pub fn rouge_l(candidates: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Result<Vec<f64>> {
    check(candidates, references)?;
    Ok(candidates.iter().zip(references).map(|(candidate, references)| one(candidate, references)).collect())
}

fn one(candidate: &[String], references: &[Vec<String>]) -> f64 {
    const BETA_SQUARED: f64 = 1.2 * 1.2;
    let empty = [String::new()];
    let or_empty = |words: &'_ [String]| if words.is_empty() { empty.to_vec() } else { words.to_vec() };
    let candidate = or_empty(candidate);
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in references {
        let reference = or_empty(reference);
        let common = common_subsequence(&candidate, &reference) as f64;
        precision = precision.max(common / candidate.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA_SQUARED) * precision * recall / (recall + BETA_SQUARED * precision)
}

/// Length of the longest common subsequence.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
