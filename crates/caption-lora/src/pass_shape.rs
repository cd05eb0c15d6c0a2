//! The shapes of training passes, each of which is a CUDA graph.

use caption_model::{TextBatch, TextIds, padded_targets};
use train_ops::Run;

/// The properties of a batch that determine the launches of its pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PassShape {
    batch: usize,
    /// The length of each text.
    lengths: Vec<usize>,
    /// Whether the first text has padding that attention must not see.
    masked: bool,
    targets: usize,
}

impl PassShape {
    /// The shape of a pass over `batch` captions of `length` tokens, padding included, with `targets` in all. One graph serves several
    /// numbers of targets.
    pub fn new(batch: usize, length: usize, targets: usize) -> Self {
        let targets = padded_targets(batch, length, targets);
        Self { batch, lengths: vec![length], masked: false, targets }
    }

    /// The shape of a pass over a batch with as many targets.
    pub(crate) fn of(text: &TextBatch, targets: usize) -> Self {
        let lengths: Vec<usize> = text.texts.iter().map(|text| text.length).collect();
        let captions = Self::new(text.rows(), lengths.last().copied().unwrap_or(0), targets);
        Self { lengths, masked: !text.lengths.is_empty(), ..captions }
    }

    /// The number of rows.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// The number of targets, padding included.
    pub(crate) fn targets(&self) -> usize {
        self.targets
    }

    /// Length of the text with targets.
    pub(crate) fn length(&self) -> usize {
        self.lengths.last().copied().unwrap_or(0)
    }

    /// A batch of this shape with other numbers in each run: the model must take them from the host as inputs of the graph.
    pub(crate) fn text(&self, run: Run) -> TextBatch {
        let id = u32::from(run == Run::Recorded);
        let text = |length: &usize| TextIds { ids: vec![id; self.batch * length], length: *length };
        let real = |length: usize| if run == Run::First { length } else { length.div_ceil(2) };
        let lengths = match self.lengths.first().filter(|_| self.masked) {
            Some(length) => vec![real(*length); self.batch],
            None => Vec::new(),
        };
        TextBatch { texts: self.lengths.iter().map(text).collect(), lengths, labels: self.labels(run) }
    }

    fn labels(&self, run: Run) -> Vec<Vec<i64>> {
        let row = self.length().saturating_sub(1);
        let label = |index: usize| {
            let (is_target, id) = match run {
                Run::First => (index < self.targets, 0),
                Run::Recorded => (index >= self.batch * row - self.targets, 1),
            };
            if is_target { id } else { -100 }
        };
        let labels = |of: usize| {
            std::iter::once(-100).chain((0..row).map(|position| label(of * row + position))).collect()
        };
        (0..self.batch).map(labels).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_two_runs_have_one_shape_and_as_many_targets_in_other_places() {
        for (lengths, masked) in [(vec![5], false), (vec![9, 5], true)] {
            let shape = PassShape { batch: 3, lengths, masked, targets: 7 };
            let runs = [Run::First, Run::Recorded].map(|run| shape.text(run));
            for text in &runs {
                assert_eq!(PassShape { targets: 7, ..PassShape::of(text, 7) }, shape);
            }
            let [first, second] = runs.each_ref().map(|text| text.shifted_labels().unwrap());
            assert_eq!((first.positions.len(), second.positions.len()), (7, 7));
            assert_ne!(first.positions, second.positions);
            assert_ne!(first.targets, second.targets);
            let numbers =
                [(&runs[0], first), (&runs[1], second)].map(|(text, labels)| text.numbers(labels, 7));
            assert_eq!(numbers[0].len(), numbers[1].len());
            assert!(numbers[0].iter().zip(&numbers[1]).filter(|(one, other)| one == other).count() < 7);
        }
    }
}
