use super::processors::{log_softmax, process};
use super::{EarlyStopping, GenerationConfig, Search, Step};

/// The score of what is not there: a beam that has not begun, a slot without a caption. Finite, as in transformers,
/// so that differences of it are numbers.
const NONE: f32 = -1e9;

/// Beam search over one picture, as transformers 5 does it.
///
/// Each step takes the `max(2, 1 + end tokens) * num_beams` best continuations of all beams. Those that end and rank
/// among the first `num_beams` compete for the slots of finished captions with their score divided by
/// `length ^ length_penalty`; the best that do not end go on.
pub(crate) struct BeamSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    prompt: usize,
    /// Sequences that go on, best first, with the sum of their log-probabilities.
    running: Vec<(Vec<u32>, f32)>,
    /// Finished captions, best first.
    finished: Vec<(Vec<u32>, f32)>,
    /// Whether a running beam may still become better than a finished caption; never true again once false.
    improvable: bool,
    done: bool,
}

impl<'a> BeamSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32]) -> Self {
        let mut running = vec![(prompt.to_vec(), NONE); config.num_beams];
        running[0].1 = 0.0;
        Self {
            config,
            eos,
            prompt: prompt.len(),
            running,
            finished: Vec::new(),
            improvable: true,
            done: false,
        }
    }

    fn slots_are_full(&self) -> bool {
        self.finished.len() == self.config.num_beams
    }

    /// The best continuations of all beams: `(beam, token, score)`, best first, the earlier beam first among equals.
    fn candidates(&self, mut logits: Vec<Vec<f32>>) -> Vec<(usize, u32, f32)> {
        let count = 2.max(1 + self.eos.len()) * self.config.num_beams;
        let mut candidates: Vec<(usize, u32, f32)> = Vec::new();
        for (beam, ((sequence, total), scores)) in self.running.iter().zip(&mut logits).enumerate() {
            log_softmax(scores);
            process(self.config, self.eos, sequence, self.prompt, scores);
            candidates.extend((0u32..).zip(scores.iter()).map(|(token, score)| (beam, token, score + total)));
        }
        let count = count.min(candidates.len());
        let order = |a: &(usize, u32, f32), b: &(usize, u32, f32)| {
            b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1))
        };
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, order);
            candidates.truncate(count);
        }
        candidates.sort_by(order);
        candidates
    }

    fn normalised(&self, score: f32, length: usize) -> f32 {
        score / (length as f32).powf(self.config.length_penalty)
    }

    /// Lets the captions that ended compete for the slots.
    fn finish(&mut self, ended: impl Iterator<Item = (Vec<u32>, f32)>) {
        let closed = self.slots_are_full() && self.config.early_stopping == EarlyStopping::Always;
        if closed || !self.improvable {
            return;
        }
        self.finished.extend(ended);
        // Stable: among equals, the caption that finished first stays ahead.
        self.finished.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.finished.truncate(self.config.num_beams);
    }
}

impl Search for BeamSearch<'_> {
    fn rows(&self) -> usize {
        self.config.num_beams
    }

    fn advance(&mut self, logits: Vec<Vec<f32>>) -> Vec<Step> {
        let candidates = self.candidates(logits);
        let generated = self.running[0].0.len() - self.prompt + 1;
        let last = generated == self.config.max_new_tokens;
        let ends = |token: u32| last || self.eos.contains(&token);
        let all_end = candidates.iter().all(|(_, token, _)| ends(*token));
        let continued = |&(beam, token, score): &(usize, u32, f32)| {
            let mut sequence = self.running[beam].0.clone();
            sequence.push(token);
            (sequence, score)
        };

        let ended: Vec<(Vec<u32>, f32)> = candidates
            .iter()
            .take(self.config.num_beams)
            .filter(|(_, token, _)| ends(*token))
            .map(continued)
            .map(|(sequence, score)| (sequence, self.normalised(score, generated)))
            .collect();
        // Those that end come last, and only where nothing else is left.
        let (mut next, rest): (Vec<_>, Vec<_>) =
            candidates.iter().copied().partition(|(_, token, _)| !ends(*token));
        next.extend(rest.into_iter().map(|(beam, token, score)| (beam, token, score + NONE)));
        next.truncate(self.config.num_beams);
        let running = next.iter().map(continued).collect();
        self.finish(ended.into_iter());
        self.running = running;

        let best = match self.config.early_stopping {
            EarlyStopping::Never if self.config.length_penalty > 0.0 => {
                self.normalised(self.running[0].1, self.config.max_new_tokens)
            }
            _ => self.normalised(self.running[0].1, generated),
        };
        let worst = match self.finished.last() {
            Some((_, score)) if self.slots_are_full() => *score,
            _ => NONE,
        };
        self.improvable &= best > worst;
        let satisfied = self.slots_are_full() && self.config.early_stopping == EarlyStopping::Always;
        self.done = !self.improvable || satisfied || all_end;
        next.iter().map(|&(parent, token, _)| Step { parent, token }).collect()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn result(&self) -> Vec<u32> {
        let best = self.finished.first().or(self.running.first());
        best.map(|(sequence, _)| sequence.clone()).unwrap_or_default()
    }
}
