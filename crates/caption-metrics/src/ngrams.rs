use std::collections::HashMap;

/// How often each n-gram of `n` words occurs.
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

/// What BLEU counts for one caption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matches {
    /// n-grams that a reference has too, each at most as often as in the reference that has it most; by n - 1.
    pub(crate) correct: [usize; 4],
    /// All n-grams; by n - 1.
    pub(crate) total: [usize; 4],
    /// Words of the caption.
    pub(crate) length: usize,
    /// Words of the reference whose length is the nearest, the shorter one of two.
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
