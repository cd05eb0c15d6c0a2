use std::collections::VecDeque;

use crate::batch::SearchBatch;
use crate::decoder::{SpeculativeDecoder, Step};
use crate::next_tokens::{NextTokens, check_logits};

/// Number of steps that the draft proposes the first time.
const FIRST_PROPOSALS: usize = 3;

/// Speculative decoding: verifies each step of the searches together with the steps that a draft proposes after it. The
/// logits of proposed steps are stored, and used if the searches then choose the same steps.
pub(crate) struct Speculation {
    vocab_size: usize,
    /// Verified steps that the searches have not reached yet, with the logits after each.
    ahead: VecDeque<(Step, Vec<f32>)>,
    /// Number of steps of the last verification that the searches have chosen; `None` before the first verification.
    chosen: Option<usize>,
}

impl Speculation {
    pub(crate) fn new(vocab_size: usize) -> Self {
        Self { vocab_size, ahead: VecDeque::new(), chosen: None }
    }

    /// The model's logits after `step`, which `searches` have chosen.
    pub(crate) fn logits<D: SpeculativeDecoder>(
        &mut self,
        decoder: &mut D,
        searches: &SearchBatch<'_>,
        step: Step,
    ) -> Result<Vec<f32>, D::Error> {
        if let Some((_, logits)) = self.ahead.pop_front().filter(|(proposed, _)| *proposed == step) {
            self.chosen = self.chosen.map(|chosen| chosen + 1);
            return Ok(logits);
        }
        if let Some(chosen) = self.chosen {
            decoder.accept(chosen)?;
        }
        let fitting = (decoder.max_rows() / step.tokens.len()).saturating_sub(1);
        // One more than were accepted the last time.
        let proposals = fitting.min(self.chosen.unwrap_or(FIRST_PROPOSALS));
        let steps = self.propose(decoder, searches, step, proposals)?;
        let rows = steps.iter().map(|step| step.tokens.len()).sum();
        let mut logits = decoder.verify(&steps)?;
        check_logits(&logits, rows, self.vocab_size)?;
        self.ahead.clear();
        self.chosen = Some(1);
        for step in steps.into_iter().skip(1).rev() {
            let rest = logits.split_off(logits.len() - step.tokens.len() * self.vocab_size);
            self.ahead.push_front((step, rest));
        }
        Ok(logits)
    }

    /// `step` and up to `proposals` steps that the draft expects to follow it.
    fn propose<D: SpeculativeDecoder>(
        &self,
        decoder: &mut D,
        searches: &SearchBatch<'_>,
        step: Step,
        proposals: usize,
    ) -> Result<Vec<Step>, D::Error> {
        let mut steps = vec![step];
        if proposals == 0 {
            return Ok(steps);
        }
        let mut searches = searches.fork();
        let mut rows = steps[0].tokens.len();
        for _ in 0..proposals {
            let logits = decoder.draft_logits(&steps)?;
            check_logits(&logits, rows, self.vocab_size)?;
            let next = searches.advance(&mut NextTokens::All(logits));
            rows = next.tokens.len();
            if rows == 0 {
                break;
            }
            steps.push(next);
        }
        Ok(steps)
    }
}
