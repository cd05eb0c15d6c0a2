use train_ops::log_sum_exp;

use super::processors::process;
use super::searches::{Search, Step};
use super::warpers::{candidates, draw};
use super::{Caption, GenerationConfig};

/// Greedy decoding or sampling of one sequence.
#[derive(Clone)]
pub(crate) struct SingleSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    ids: Vec<u32>,
    prompt: usize,
    /// The sum of the new tokens' log-probabilities.
    total: f32,
    /// Which of the picture's captions it is, for the draws.
    sequence: u64,
    done: bool,
}

impl<'a> SingleSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32], sequence: u64) -> Self {
        Self { config, eos, ids: prompt.to_vec(), prompt: prompt.len(), total: 0.0, sequence, done: false }
    }

    fn generated(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

impl Search for SingleSearch<'_> {
    fn rows(&self) -> usize {
        1
    }

    fn advance(&mut self, scores: &mut [f32]) -> Vec<Step> {
        process(self.config, self.eos, &self.ids, self.prompt, scores);
        let (token, log_probability) = match &self.config.sampling {
            None => {
                let token = argmax(scores);
                (token, scores[token as usize] - log_sum_exp(scores))
            }
            Some(sampling) => {
                let key = train_ops::sample_key(sampling.seed, self.sequence, self.generated() as u64);
                // 53 bits, as many as a float in [0, 1) has.
                draw(&candidates(sampling, scores), (key >> 11) as f64 / (1u64 << 53) as f64)
            }
        };
        self.ids.push(token);
        self.total += log_probability;
        self.done = self.eos.contains(&token) || self.generated() >= self.config.max_new_tokens;
        vec![Step { parent: 0, token }]
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
