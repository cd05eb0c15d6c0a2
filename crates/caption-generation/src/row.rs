use crate::next_tokens::{BestTokens, NextTokens};
use crate::softmax::{log_softmax, log_sum_exp};

/// The scores of the tokens that may follow one sequence. At first they are logits; a search then changes them.
pub(crate) enum Row<'a> {
    /// The scores of all tokens, `(vocab_size)`.
    All(&'a mut [f32]),
    /// The scores of the best tokens, in the order of their ids.
    Best {
        scores: Vec<(u32, f32)>,
        /// `log Σ exp(logits)` over all tokens.
        log_sum: f32,
    },
}

/// The rows of `next`.
pub(crate) fn rows(next: &mut NextTokens, vocab_size: usize) -> Vec<Row<'_>> {
    match next {
        NextTokens::All(logits) => logits.chunks_exact_mut(vocab_size).map(Row::All).collect(),
        NextTokens::Best(BestTokens { count, ids, logits, log_sums }) => {
            let rows = ids.chunks_exact(*count).zip(logits.chunks_exact(*count)).zip(log_sums);
            let row = |((ids, logits), log_sum): ((&[u32], &[f32]), &mut f32)| {
                let mut scores: Vec<(u32, f32)> = ids.iter().copied().zip(logits.iter().copied()).collect();
                scores.sort_by_key(|(id, _)| *id);
                Row::Best { scores, log_sum: *log_sum }
            };
            rows.map(row).collect()
        }
    }
}

impl Row<'_> {
    /// The score of a token, if it is known.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut f32> {
        match self {
            Self::All(scores) => scores.get_mut(id as usize),
            Self::Best { scores, .. } => {
                scores.iter_mut().find(|(token, _)| *token == id).map(|(_, score)| score)
            }
        }
    }

    pub(crate) fn forbid(&mut self, id: u32) {
        if let Some(score) = self.get_mut(id) {
            *score = f32::NEG_INFINITY;
        }
    }

    /// Calls `f` with each known token and its score, in the order of the ids.
    pub(crate) fn for_each(&self, mut f: impl FnMut(u32, f32)) {
        match self {
            Self::All(scores) => (0u32..).zip(scores.iter()).for_each(|(id, score)| f(id, *score)),
            Self::Best { scores, .. } => scores.iter().for_each(|(id, score)| f(*id, *score)),
        }
    }

    /// The scores of all tokens; empty if only the best are known.
    pub(crate) fn all(&self) -> &[f32] {
        match self {
            Self::All(scores) => scores,
            Self::Best { .. } => &[],
        }
    }

    /// `log Σ exp` of the current scores if all are known, else of the logits. Logits minus this number are
    /// log-probabilities.
    pub(crate) fn log_sum(&self) -> f32 {
        match self {
            Self::All(scores) => log_sum_exp(scores),
            Self::Best { log_sum, .. } => *log_sum,
        }
    }

    /// Turns logits into log-probabilities.
    pub(crate) fn log_softmax(&mut self) {
        match self {
            Self::All(scores) => log_softmax(scores),
            Self::Best { scores, log_sum } => scores.iter_mut().for_each(|(_, score)| *score -= *log_sum),
        }
    }
}
