use rayon::prelude::*;

use super::processors::{log_softmax, process};
use super::searches::{Search, Step};
use super::{Caption, EarlyStopping, GenerationConfig};

/// The score of what is not there: a beam that has not begun, a slot without a caption. Finite, as in transformers,
/// so that differences of it are numbers.
const NONE: f32 = -1e9;

/// Beam search over one picture, as transformers 5 does it.
///
/// Each step takes the `max(2, 1 + end tokens) * num_beams` best continuations of all beams. Those that end and rank
/// among the first `num_beams` compete for the slots of finished captions with their score divided by
/// `length ^ length_penalty`; the best that do not end go on.
#[derive(Clone)]
pub(crate) struct BeamSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    prompt: usize,
    /// Sequences that go on, best first, with the sum of their log-probabilities.
    running: Vec<(Vec<u32>, f32)>,
    /// Finished captions, best first.
    finished: Vec<Caption>,
    done: bool,
}

/// A beam continued by a token.
#[derive(Clone, Copy)]
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
}

impl<'a> BeamSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32]) -> Self {
        let mut running = vec![(prompt.to_vec(), NONE); config.num_beams];
        running[0].1 = 0.0;
        Self { config, eos, prompt: prompt.len(), running, finished: Vec::new(), done: false }
    }

    /// New tokens in each running sequence.
    fn generated(&self) -> usize {
        self.running[0].0.len() - self.prompt
    }

    fn slots_are_full(&self) -> bool {
        self.finished.len() == self.config.num_beams
    }

    /// The best continuations of all beams, best first, the earlier beam and the smaller token first among equals.
    fn continuations(&self, logits: &mut [f32]) -> Vec<Continuation> {
        let count = 2.max(1 + self.eos.len()) * self.config.num_beams;
        let vocabulary = logits.len() / self.running.len();
        let mut best: Vec<Continuation> = Vec::with_capacity(count + 1);
        let beams = self.running.par_iter().zip(logits.par_chunks_exact_mut(vocabulary));
        beams.for_each(|((sequence, _), scores)| {
            log_softmax(scores);
            process(self.config, self.eos, sequence, self.prompt, scores);
        });
        for (beam, ((_, total), scores)) in
            self.running.iter().zip(logits.chunks_exact(vocabulary)).enumerate()
        {
            for (token, score) in (0u32..).zip(scores.iter()) {
                let score = score + total;
                if best.len() == count && best.last().is_some_and(|last| score <= last.score) {
                    continue;
                }
                let rank = best.partition_point(|other| other.score >= score);
                best.insert(rank, Continuation { beam, token, score });
                best.truncate(count);
            }
        }
        best
    }

    fn continued(&self, by: &Continuation) -> Vec<u32> {
        let mut ids = self.running[by.beam].0.clone();
        ids.push(by.token);
        ids
    }

    /// Lets the captions that ended compete for the slots.
    fn finish(&mut self, ended: Vec<Caption>) {
        self.finished.extend(ended);
        // Stable: among equals, the caption that finished first stays ahead.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.config.num_beams);
    }
}

impl Search for BeamSearch<'_> {
    fn rows(&self) -> usize {
        self.config.num_beams
    }

    fn advance(&mut self, logits: &mut [f32]) -> Vec<Step> {
        let continuations = self.continuations(logits);
        let generated = self.generated() + 1;
        let last = generated == self.config.max_new_tokens;
        let ends = |continuation: &Continuation| last || self.eos.contains(&continuation.token);
        let all_end = continuations.iter().all(ends);

        let first = continuations.iter().take(self.config.num_beams);
        let ended = first.filter(|continuation| ends(continuation)).map(|continuation| Caption {
            ids: self.continued(continuation),
            score: self.config.normalised(continuation.score, generated),
        });
        let ended = ended.collect();
        // Those that end come last, and only where nothing else is left.
        let (mut next, rest): (Vec<_>, Vec<_>) = continuations.into_iter().partition(|c| !ends(c));
        next.extend(rest.into_iter().map(|c| Continuation { score: c.score + NONE, ..c }));
        next.truncate(self.config.num_beams);
        let running = next.iter().map(|c| (self.continued(c), c.score)).collect();
        self.finish(ended);
        self.running = running;

        let furthest = match self.config.early_stopping {
            EarlyStopping::Never if self.config.length_penalty > 0.0 => self.config.max_new_tokens,
            _ => generated,
        };
        let best = self.config.normalised(self.running[0].1, furthest);
        let worst = match self.finished.last() {
            Some(caption) if self.slots_are_full() => caption.score,
            _ => NONE,
        };
        // Whether a running beam may still become better than a finished caption.
        let improvable = best > worst;
        let satisfied = self.slots_are_full() && self.config.early_stopping == EarlyStopping::Always;
        self.done = !improvable || satisfied || all_end;
        next.iter().map(|c| Step { parent: c.beam, token: c.token }).collect()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn best(&self) -> &[u32] {
        match self.finished.first() {
            Some(caption) if self.done => &caption.ids,
            _ => &self.running[0].0,
        }
    }

    /// The best finished captions; running ones where the search was interrupted before enough had finished.
    fn captions(&self) -> Vec<Caption> {
        let running = self.running.iter().map(|(ids, total)| Caption {
            ids: ids.clone(),
            score: self.config.normalised(*total, self.generated()),
        });
        self.finished.iter().cloned().chain(running).take(self.config.num_return_sequences).collect()
    }

    fn fork(&self) -> Box<dyn Search + '_> {
        Box::new(self.clone())
    }
}
