use super::processors::process;
use super::{GenerationConfig, Sampling, Search, Step};

/// Greedy decoding or sampling: one sequence a picture.
pub(crate) struct SingleSearch<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    sequence: Vec<u32>,
    prompt: usize,
    /// The picture's number, for the draws.
    picture: u64,
    done: bool,
}

impl<'a> SingleSearch<'a> {
    pub(crate) fn new(config: &'a GenerationConfig, eos: &'a [u32], prompt: &[u32], picture: usize) -> Self {
        let sequence = prompt.to_vec();
        Self { config, eos, prompt: sequence.len(), sequence, picture: picture as u64, done: false }
    }
}

impl Search for SingleSearch<'_> {
    fn rows(&self) -> usize {
        1
    }

    fn advance(&mut self, mut logits: Vec<Vec<f32>>) -> Vec<Step> {
        let Some(scores) = logits.first_mut() else { return Vec::new() };
        process(self.config, self.eos, &self.sequence, self.prompt, scores);
        let generated = self.sequence.len() - self.prompt;
        let token = match &self.config.sampling {
            None => argmax(scores),
            Some(sampling) => {
                let key = train_ops::sample_key(sampling.seed, self.picture, generated as u64);
                // 53 bits, as many as a float in [0, 1) has.
                sample(sampling, scores, (key >> 11) as f64 / (1u64 << 53) as f64)
            }
        };
        self.sequence.push(token);
        self.done = self.eos.contains(&token) || generated + 1 >= self.config.max_new_tokens;
        vec![Step { parent: 0, token }]
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn result(&self) -> Vec<u32> {
        self.sequence.clone()
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

/// Draws a token: temperature, then the best k, then the smallest set of best tokens with probability `top_p`.
/// `uniform` is in `[0, 1)`.
fn sample(sampling: &Sampling, scores: &[f32], uniform: f64) -> u32 {
    let mut tokens: Vec<u32> = (0..scores.len() as u32).collect();
    tokens.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k);
    }
    let best = scores[tokens[0] as usize];
    let weight = |token: &u32| f64::from((scores[*token as usize] - best) / sampling.temperature).exp();
    let mut total: f64 = tokens.iter().map(weight).sum();
    if sampling.top_p < 1.0 {
        let mut cumulative = 0.0;
        let keep = tokens.iter().take_while(|token| {
            let kept = cumulative < f64::from(sampling.top_p) * total;
            cumulative += weight(token);
            kept
        });
        let keep = keep.count().max(1);
        tokens.truncate(keep);
        total = tokens.iter().map(weight).sum();
    }
    let mut rest = uniform * total;
    for token in &tokens {
        rest -= weight(token);
        if rest < 0.0 {
            return *token;
        }
    }
    tokens[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_of_the_tokens_that_are_left() {
        let scores = [0.0f32, 0.5f32.ln(), 0.25f32.ln(), f32::NEG_INFINITY];
        let shares = |sampling: &Sampling| {
            let mut counts = [0; 4];
            for i in 0..7000 {
                counts[sample(sampling, &scores, f64::from(i) / 7000.0) as usize] += 1;
            }
            counts
        };
        let all = Sampling { top_k: 0, ..Sampling::default() };
        // The logarithms are rounded, so a draw on the border may fall on either side.
        let [first, second, third, never] = shares(&all);
        assert!(
            (first - 4000i32).abs() <= 1 && (second - 2000i32).abs() <= 1 && (third - 1000i32).abs() <= 1
        );
        assert_eq!(never, 0);
        assert_eq!(shares(&Sampling { top_k: 1, ..all.clone() }), [7000, 0, 0, 0]);
        // 4/7 alone is below 0.6, so the second token is needed too.
        let [first, second, third, _] = shares(&Sampling { top_p: 0.6, ..all.clone() });
        assert!((first - 4667i32).abs() <= 1 && (second - 2333i32).abs() <= 1 && third == 0);
        let cold = shares(&Sampling { temperature: 0.5, ..all });
        assert!(cold[0] > 5000 && cold[0] < 5500, "16 : 4 : 1");
    }
}
