use std::collections::HashMap;

/// The number of occurrences of each n-gram of `n` words.
pub(crate) fn counts<'a, W>(words: &'a [W], n: usize) -> HashMap<&'a [W], usize>
where
    &'a [W]: std::hash::Hash + Eq,
{
    let mut counts = HashMap::new();
    for ngram in words.windows(n) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// The counts that BLEU is computed from, of a caption or summed over a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matches {
    /// Clipped number of n-grams, at index n - 1: each counts at most as often as in the reference with most of it.
    pub(crate) correct: [usize; 4],
    /// Number of n-grams, at index n - 1.
    pub(crate) total: [usize; 4],
    /// Number of words.
    pub(crate) length: usize,
    /// Number of words of the reference that is nearest in length; the shorter one if two are equally near.
    pub(crate) reference_length: usize,
}

impl Matches {
    pub(crate) fn new(candidate: &[String], references: &[Vec<String>]) -> Self {
        let length = candidate.len();
        let nearest = references.iter().map(Vec::len).min_by_key(|other| (length.abs_diff(*other), *other));
        let mut matches = Self { length, reference_length: nearest.unwrap_or(0), ..Self::default() };
        for n in 1..=4 {
            let references: Vec<_> = references.iter().map(|reference| counts(reference, n)).collect();
            let most = |ngram| references.iter().filter_map(|counts| counts.get(ngram)).max().copied();
            let ours = counts(candidate, n);
            matches.correct[n - 1] =
                ours.iter().map(|(ngram, count)| most(*ngram).unwrap_or(0).min(*count)).sum();
            matches.total[n - 1] = (length + 1).saturating_sub(n);
        }
        matches
    }

    /// The sum over a corpus.
    pub(crate) fn add(&mut self, other: &Self) {
        for n in 0..4 {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
        self.length += other.length;
        self.reference_length += other.reference_length;
    }
}
