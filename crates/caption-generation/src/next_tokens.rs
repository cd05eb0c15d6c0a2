use crate::error::{Error, Result};

/// The logits that follow the live sequences of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub enum NextTokens {
    /// The logits of all tokens, `(sequences, vocab_size)`, row by row.
    All(Vec<f32>),
    /// The largest logits of each row.
    Best(BestTokens),
}

/// The tokens with the largest logits of each row. Among equal logits, smaller ids come first.
#[derive(Clone, Debug, PartialEq)]
pub struct BestTokens {
    /// Number of tokens of each row.
    pub count: usize,
    /// The tokens, `(rows, count)`; those of a row are different.
    pub ids: Vec<u32>,
    /// Their logits, `(rows, count)`.
    pub logits: Vec<f32>,
    /// `log Σ exp(logits)` over all tokens, for each row.
    pub log_sums: Vec<f32>,
}

impl NextTokens {
    /// Checks that there is a row for each sequence, and that none contains NaN or plus infinity, because then
    /// no token is the best. Minus infinity forbids a token. `tokens` is the number of tokens of the longest
    /// sequence, for the error.
    pub(crate) fn check(&self, sequences: usize, vocab_size: usize, tokens: usize) -> Result<()> {
        self.check_count(sequences, vocab_size)?;
        // There is no early exit, so that the compiler uses vector instructions, which is faster.
        let numbers = |values: &[f32]| values.iter().fold(true, |all, value| all & (*value < f32::INFINITY));
        let are_numbers = match self {
            Self::All(logits) => numbers(logits),
            Self::Best(best) => numbers(&best.logits) && numbers(&best.log_sums),
        };
        if are_numbers { Ok(()) } else { Err(Error::NotNumbers { tokens }) }
    }

    fn check_count(&self, sequences: usize, vocab_size: usize) -> Result<()> {
        match self {
            Self::All(logits) => check_logits(logits, sequences, vocab_size),
            Self::Best(BestTokens { count, ids, logits, log_sums }) => {
                let expected = sequences * count;
                let fits = *count > 0 && [ids.len(), logits.len()] == [expected; 2];
                let known = ids.iter().all(|id| (*id as usize) < vocab_size);
                match fits && known && log_sums.len() == sequences {
                    true => Ok(()),
                    false => Err(Error::BestTokens { count: *count, sequences, got: ids.len() }),
                }
            }
        }
    }

    /// A copy of the rows with these indices.
    pub(crate) fn select(&self, rows: &[usize], vocab_size: usize) -> Self {
        match self {
            Self::All(logits) => Self::All(selected(logits, rows, vocab_size)),
            Self::Best(BestTokens { count, ids, logits, log_sums }) => Self::Best(BestTokens {
                count: *count,
                ids: selected(ids, rows, *count),
                logits: selected(logits, rows, *count),
                log_sums: selected(log_sums, rows, 1),
            }),
        }
    }
}

/// Checks that there is a row of logits for each sequence.
pub(crate) fn check_logits(logits: &[f32], sequences: usize, vocab_size: usize) -> Result<()> {
    match logits.len() == sequences * vocab_size {
        true => Ok(()),
        false => Err(Error::LogitCount { got: logits.len(), sequences, vocab_size }),
    }
}

fn selected<T: Copy>(values: &[T], rows: &[usize], width: usize) -> Vec<T> {
    rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
}
