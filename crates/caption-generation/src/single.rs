use crate::caption::Caption;
use crate::config::GenerationConfig;
use crate::processors::process;
use crate::sampling::{candidates, draw, uniform};
use crate::search::{Continuation, Search};
use crate::softmax::log_sum_exp;

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

    fn advance(&mut self, scores: &mut [f32]) -> Vec<Continuation> {
        process(self.config, self.eos, &self.ids, self.prompt, scores);
        let (token, log_probability) = match &self.config.sampling {
            None => {
                let token = argmax(scores);
                (token, scores[token as usize] - log_sum_exp(scores))
            }
            Some(sampling) => {
                let uniform = uniform(sampling.seed, self.sequence as u64, self.generated() as u64);
                draw(&candidates(sampling, scores), uniform)
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

/// The best token; the first of equals.
fn argmax(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (token, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = token;
        }
    }
    best as u32
}
