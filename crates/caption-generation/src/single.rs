use crate::caption::Caption;
use crate::config::GenerationConfig;
use crate::processors::{most_changed, process};
use crate::row::Row;
use crate::sampling::{candidates, draw, uniform};
use crate::search::{Continuation, Search};

/// Greedy decoding or sampling of one sequence.
#[derive(Clone)]
pub(crate) struct SingleSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    ids: Vec<u32>,
    /// Number of tokens of the prompt.
    prompt: usize,
    /// The sum of the new tokens' log-probabilities.
    total: f32,
    /// Index among the captions sampled for the picture.
    sequence: usize,
    done: bool,
}

impl<'a> SingleSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32], sequence: usize) -> Self {
        Self { config, eos, ids: prompt.to_vec(), prompt: prompt.len(), total: 0.0, sequence, done: false }
    }

    /// Number of new tokens.
    fn generated(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

impl Search for SingleSearch<'_> {
    fn sequences(&self) -> usize {
        1
    }

    /// One, unless penalties change scores: the score is then a probability among all tokens after the
    /// penalties, which needs all logits.
    fn needed_logits(&self) -> Option<usize> {
        let changed = most_changed(self.config, self.eos, self.ids.len(), self.generated());
        (self.config.sampling.is_none() && changed == 0).then_some(1)
    }

    fn advance(&mut self, rows: &mut [Row<'_>]) -> Vec<Continuation> {
        let [row] = rows else { return Vec::new() };
        process(self.config, self.eos, &self.ids, self.prompt, row);
        let (token, log_probability) = match &self.config.sampling {
            None => {
                let (token, score) = best(row);
                (token, score - row.log_sum())
            }
            Some(sampling) => {
                let uniform = uniform(sampling.seed, self.sequence as u64, self.generated() as u64);
                draw(&candidates(sampling, row.all()), uniform)
            }
        };
        self.ids.push(token);
        self.total += log_probability;
        self.done = self.eos.contains(&token) || self.generated() >= self.config.max_new_tokens;
        vec![Continuation { parent: 0, token }]
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn best(&self) -> &[u32] {
        &self.ids
    }

    fn captions(&self) -> Vec<Caption> {
        let score = self.config.normalised(self.total, self.generated());
        vec![Caption { ids: self.ids.clone(), score }]
    }

    fn fork(&self) -> Box<dyn Search + '_> {
        Box::new(self.clone())
    }
}

/// The best token and its score; the first one, if several are equal.
fn best(row: &Row<'_>) -> (u32, f32) {
    let mut best: Option<(u32, f32)> = None;
    row.for_each(|token, score| {
        if best.is_none_or(|(_, best)| score > best) {
            best = Some((token, score));
        }
    });
    best.unwrap_or_default()
}
