use std::collections::VecDeque;

use candle_core::{DType, Tensor};
use train_ops::DecodingRows;

use super::searches::{Next, Searches};
use crate::{Decoding, Draft, GitForCausalLm, Result};

/// Rows that are read about as fast as one, as they wait for the same weights.
const MOST_ROWS: usize = 8;

/// Guesses that are made the first time.
const FIRST_GUESSES: usize = 3;

/// Speculative decoding: reads the newest token of each sequence and, where there is a draft, those that it takes to follow,
/// so that the model has read them when they are said.
pub(super) struct Speculation<'a> {
    draft: Option<&'a Draft>,
    /// Steps that were read and not yet asked for: guesses but for the first.
    read: VecDeque<ReadStep>,
    /// Guesses that were right since the model read last. The next time there is one more.
    accepted: usize,
}

/// A step that the model has read.
pub(super) struct ReadStep {
    next: Next,
    /// The sequences with its tokens.
    pub(super) rows: DecodingRows,
    /// What follows each of them, `(rows, vocabulary)`.
    pub(super) logits: Vec<f32>,
}

impl<'a> Speculation<'a> {
    pub(super) fn new(draft: Option<&'a Draft>) -> Self {
        Self { draft, read: VecDeque::new(), accepted: FIRST_GUESSES - 1 }
    }

    /// The step in which the sequences of `decoding`, which `searches` follow, go on with the tokens of `next`.
    pub(super) fn read(
        &mut self,
        model: &GitForCausalLm,
        searches: &Searches<'_>,
        next: Next,
        decoding: &Decoding,
    ) -> Result<ReadStep> {
        if let Some(step) = self.read.pop_front().filter(|step| step.next == next) {
            self.accepted += 1;
            return Ok(step);
        }
        let guesses = (MOST_ROWS / next.tokens.len()).saturating_sub(1).min(self.accepted + 1);
        let mut steps = vec![ReadStep::new(next, decoding.rows.clone())];
        if let Some(draft) = self.draft.filter(|_| guesses > 0) {
            guess(model, draft, searches, decoding, guesses, &mut steps)?;
        }
        let rows = DecodingRows::join(steps.iter().map(|step| &step.rows));
        let tokens: Vec<u32> = steps.iter().flat_map(|step| &step.next.tokens).copied().collect();
        let mut logits = values(&model.newest_logits(&tokens, &rows, decoding, None)?)?;
        let vocabulary = logits.len() / tokens.len();
        for step in steps.iter_mut().rev() {
            step.logits = logits.split_off(logits.len() - step.next.tokens.len() * vocabulary);
        }
        let known = steps.remove(0);
        self.accepted = 0;
        self.read = steps.into();
        Ok(known)
    }
}

impl ReadStep {
    /// One that is yet to be read, in which the sequences `rows` go on with the tokens of `next`.
    fn new(next: Next, mut rows: DecodingRows) -> Self {
        rows.extend(1);
        Self { next, rows, logits: Vec::new() }
    }
}

/// Adds to `steps`, the one that is known, up to `guesses` that `draft` takes to follow it.
fn guess(
    model: &GitForCausalLm,
    draft: &Draft,
    searches: &Searches<'_>,
    decoding: &Decoding,
    guesses: usize,
    steps: &mut Vec<ReadStep>,
) -> Result<()> {
    let mut searches = searches.fork();
    for at in 0..guesses {
        let ReadStep { next, rows, .. } = &steps[at];
        let mut logits = values(&model.newest_logits(&next.tokens, rows, decoding, Some(draft))?)?;
        let next = searches.advance(&mut logits);
        if next.tokens.is_empty() {
            break;
        }
        let mut rows = rows.clone();
        rows.reorder(&next.parents)?;
        steps.push(ReadStep::new(next, rows));
    }
    Ok(())
}

fn values(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
