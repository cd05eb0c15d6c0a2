use std::collections::VecDeque;

use crate::batch::SearchBatch;
use crate::decoder::{SpeculativeDecoder, Step};
use crate::next_tokens::{NextTokens, check_logits};

/// Number of steps that the draft proposes the first time.
const FIRST_PROPOSALS: usize = 3;
/// The most verifications in a row for which a draft is not asked because it was wrong.
const LONGEST_PAUSE: usize = 31;

/// Speculative decoding: verifies each step of the searches together with the steps that a draft proposes after it. The
/// logits of proposed steps are stored, and used if the searches then choose the same steps.
///
/// A draft that is right proposes one step more each time. One that is wrong again and again is asked less and less: for the
/// verifications 1, 2, 4, 8, 16 and so on.
pub(crate) struct Speculation {
    vocab_size: usize,
    /// Verified steps that the searches have not reached yet, with the logits after each.
    ahead: VecDeque<(Step, Vec<f32>)>,
    last: Option<Verification>,
    /// The number of verifications to come for which the draft is not asked.
    pause: usize,
    /// The length of the pause after the next wrong proposal.
    next_pause: usize,
}

/// The last verification.
#[derive(Clone, Copy)]
struct Verification {
    /// Whether the draft was asked.
    asked: bool,
    /// The number of its steps that the searches have chosen, at least one.
    chosen: usize,
}

impl Speculation {
    pub(crate) fn new(vocab_size: usize) -> Self {
        Self { vocab_size, ahead: VecDeque::new(), last: None, pause: 0, next_pause: 0 }
    }

    /// The model's logits after `step`, which `searches` have chosen.
    pub(crate) fn logits<D: SpeculativeDecoder>(
        &mut self,
        decoder: &mut D,
        searches: &SearchBatch<'_>,
        step: Step,
    ) -> Result<Vec<f32>, D::Error> {
        if let Some((_, logits)) = self.ahead.pop_front().filter(|(proposed, _)| *proposed == step) {
            if let Some(last) = &mut self.last {
                last.chosen += 1;
            }
            return Ok(logits);
        }
        if let Some(last) = &self.last {
            decoder.accept(last.chosen)?;
        }
        let fitting = (decoder.max_rows() / step.tokens.len()).saturating_sub(1);
        let proposals = fitting.min(self.proposals());
        let steps = self.propose(decoder, searches, step, proposals)?;
        let rows = steps.iter().map(|step| step.tokens.len()).sum();
        let mut logits = decoder.verify(&steps)?;
        check_logits(&logits, rows, self.vocab_size)?;
        self.ahead.clear();
        self.last = Some(Verification { asked: proposals > 0, chosen: 1 });
        for step in steps.into_iter().skip(1).rev() {
            let rest = logits.split_off(logits.len() - step.tokens.len() * self.vocab_size);
            self.ahead.push_front((step, rest));
        }
        Ok(logits)
    }

    /// The number of steps that the draft is to propose: one more than were right the last time.
    fn proposals(&mut self) -> usize {
        let Some(Verification { asked, chosen }) = self.last else { return FIRST_PROPOSALS };
        if chosen > 1 {
            (self.pause, self.next_pause) = (0, 0);
        } else if asked {
            self.pause = self.next_pause;
            self.next_pause = LONGEST_PAUSE.min(2 * self.next_pause + 1);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        chosen
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
