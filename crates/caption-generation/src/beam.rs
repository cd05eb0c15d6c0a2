use rayon::prelude::*;

use crate::caption::Caption;
use crate::config::{EarlyStopping, GenerationConfig};
use crate::processors::{most_changed, process};
use crate::row::Row;
use crate::search::{Continuation, Search};

/// The score of a beam that has not begun and of an empty slot for a caption. It is finite, as in transformers,
/// so that differences of scores are numbers.
const NO_SCORE: f32 = -1e9;

/// Beam search for one picture, with the results of transformers 5.
///
/// Each step ranks the `max(2, 1 + end tokens) * num_beams` best continuations of all beams. Those among the first
/// `num_beams` that end a caption compete for the slots of finished captions, with their score divided by
/// `length ^ length_penalty`; the best of the others are the next beams.
#[derive(Clone)]
pub(crate) struct BeamSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    /// Number of tokens of the prompt.
    prompt: usize,
    /// Best first.
    beams: Vec<Beam>,
    /// Best first.
    finished: Vec<Caption>,
    done: bool,
}

/// A live sequence and the sum of its log-probabilities.
#[derive(Clone)]
struct Beam {
    ids: Vec<u32>,
    total: f32,
}

/// A continuation of a beam and the sum of its log-probabilities.
#[derive(Clone, Copy)]
struct Candidate {
    continuation: Continuation,
    total: f32,
}

impl<'a> BeamSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32]) -> Self {
        let mut beams = vec![Beam { ids: prompt.to_vec(), total: NO_SCORE }; config.num_beams];
        beams[0].total = 0.0;
        Self { config, eos, prompt: prompt.len(), beams, finished: Vec::new(), done: false }
    }

    /// Number of new tokens of each beam.
    fn generated(&self) -> usize {
        self.beams[0].ids.len() - self.prompt
    }

    /// Number of continuations that a step ranks.
    fn candidate_count(&self) -> usize {
        2.max(1 + self.eos.len()) * self.config.num_beams
    }

    fn slots_are_full(&self) -> bool {
        self.finished.len() == self.config.num_beams
    }

    /// The best continuations of all beams, best first. Equal ones are ordered by beam, then by token.
    fn candidates(&self, rows: &mut [Row<'_>]) -> Vec<Candidate> {
        let count = self.candidate_count();
        self.beams.par_iter().zip(rows.par_iter_mut()).for_each(|(beam, row)| {
            row.log_softmax();
            process(self.config, self.eos, &beam.ids, self.prompt, row);
            // If every token is forbidden, there is no distribution.
            if self.config.renormalize_logits && row.all().iter().any(|score| *score > f32::NEG_INFINITY) {
                row.log_softmax();
            }
        });
        let mut best: Vec<Candidate> = Vec::with_capacity(count + 1);
        for (parent, (beam, row)) in self.beams.iter().zip(rows.iter()).enumerate() {
            row.for_each(|token, score| {
                let total = score + beam.total;
                if best.len() == count && best.last().is_some_and(|last| total <= last.total) {
                    return;
                }
                let rank = best.partition_point(|other| other.total >= total);
                best.insert(rank, Candidate { continuation: Continuation { parent, token }, total });
                best.truncate(count);
            });
        }
        best
    }

    fn continued(&self, by: Continuation) -> Vec<u32> {
        let mut ids = self.beams[by.parent].ids.clone();
        ids.push(by.token);
        ids
    }

    /// Ranks new captions among the finished ones.
    fn finish(&mut self, ended: Vec<Caption>) {
        self.finished.extend(ended);
        // Stable: among equals, the caption that finished first stays ahead.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.config.num_beams);
    }

    /// Whether a live beam may still become better than the worst finished caption.
    fn is_improvable(&self) -> bool {
        let furthest = match self.config.early_stopping {
            EarlyStopping::Never if self.config.length_penalty > 0.0 => self.config.max_new_tokens,
            _ => self.generated(),
        };
        let best = self.config.normalised(self.beams[0].total, furthest);
        let worst = match self.finished.last() {
            Some(caption) if self.slots_are_full() => caption.score,
            _ => NO_SCORE,
        };
        best > worst
    }
}

impl Search for BeamSearch<'_> {
    fn sequences(&self) -> usize {
        self.config.num_beams
    }

    /// As many as a step ranks, and as many more as penalties may move out of these. A repetition penalty below
    /// 1 raises scores, so that any token may become one of the best.
    fn needed_logits(&self) -> Option<usize> {
        let whole = self.config.renormalize_logits || self.config.repetition_penalty < 1.0;
        let generated = self.generated();
        let changed = most_changed(self.config, self.eos, self.prompt + generated, generated);
        (!whole).then(|| self.candidate_count() + changed)
    }

    fn advance(&mut self, rows: &mut [Row<'_>]) -> Vec<Continuation> {
        let candidates = self.candidates(rows);
        let generated = self.generated() + 1;
        let last = generated == self.config.max_new_tokens;
        let ends = |candidate: &Candidate| last || self.eos.contains(&candidate.continuation.token);
        let all_end = candidates.iter().all(ends);

        let first = candidates.iter().take(self.config.num_beams);
        let ended = first.filter(|candidate| ends(candidate)).map(|candidate| Caption {
            ids: self.continued(candidate.continuation),
            score: self.config.normalised(candidate.total, generated),
        });
        let ended = ended.collect();
        // Sequences that ended stay beams only if too few others are left, and rank last.
        let (mut next, rest): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| !ends(c));
        next.extend(rest.into_iter().map(|c| Candidate { total: c.total + NO_SCORE, ..c }));
        next.truncate(self.config.num_beams);
        let beams =
            next.iter().map(|c| Beam { ids: self.continued(c.continuation), total: c.total }).collect();
        self.finish(ended);
        self.beams = beams;

        let satisfied = self.slots_are_full() && self.config.early_stopping == EarlyStopping::Always;
        self.done = !self.is_improvable() || satisfied || all_end;
        next.iter().map(|candidate| candidate.continuation).collect()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn best(&self) -> &[u32] {
        match self.finished.first() {
            Some(caption) if self.done => &caption.ids,
            _ => &self.beams[0].ids,
        }
    }

    /// The best finished captions, then live beams if the search was interrupted before enough captions had
    /// finished.
    fn captions(&self) -> Vec<Caption> {
        let live = self.beams.iter().map(|beam| Caption {
            ids: beam.ids.clone(),
            score: self.config.normalised(beam.total, self.generated()),
        });
        self.finished.iter().cloned().chain(live).take(self.config.num_return_sequences).collect()
    }

    fn fork(&self) -> Box<dyn Search + '_> {
        Box::new(self.clone())
    }
}
