//! Sampling: the candidates that remain after transformers' logits warpers, and the draw of one of them.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::config::Sampling;

/// A token that may be drawn, and its weight: its probability divided by the best token's.
pub(crate) type Candidate = (u32, f64);

/// The tokens that may be drawn, best first: after temperature, the best `top_k`, then the fewest best ones that together
/// have the probability `top_p`, then those with at least `min_p` times the best one's probability.
pub(crate) fn candidates(sampling: &Sampling, scores: &[f32]) -> Vec<Candidate> {
    let mut tokens: Vec<u32> = (0..scores.len() as u32).collect();
    let score = |token: &u32| scores[*token as usize];
    if sampling.top_k > 0 && sampling.top_k < tokens.len() {
        let mut ranked = scores.to_vec();
        let (_, last, _) = ranked.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.total_cmp(a));
        // As in transformers, tokens with the same score as the last of the best k stay too.
        tokens.retain(|token| score(token) >= *last);
    }
    tokens.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let best = tokens.first().map_or(0.0, score);
    let weight = |token: &u32| f64::from((score(token) - best) / sampling.temperature).exp();
    let mut candidates: Vec<Candidate> = tokens.iter().map(|token| (*token, weight(token))).collect();
    if sampling.top_p < 1.0 {
        let nucleus = f64::from(sampling.top_p) * total(&candidates);
        let mut before = 0.0;
        let kept = candidates.iter().take_while(|(_, weight)| {
            let keep = before < nucleus;
            before += weight;
            keep
        });
        let kept = kept.count().max(1);
        candidates.truncate(kept);
    }
    // The best token has weight 1, a forbidden one 0.
    candidates.retain(|(_, weight)| *weight > 0.0 && *weight >= f64::from(sampling.min_p));
    candidates
}

/// A uniform number in `[0, 1)`: a function of the seed, the caption's index among those of its picture, and the position.
pub(crate) fn uniform(seed: u64, sequence: u64, position: u64) -> f64 {
    let scramble = |state| SplitMix64::seed_from_u64(state).next_u64();
    let bits = scramble(scramble(scramble(seed) ^ sequence) ^ position);
    // An f64 in [0, 1) holds 53 bits.
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The token at `uniform`, in `[0, 1)`, of the candidates' cumulative distribution, and its log-probability.
pub(crate) fn draw(candidates: &[Candidate], uniform: f64) -> (u32, f32) {
    let total = total(candidates);
    let log_probability = |weight: f64| (weight / total).ln() as f32;
    let mut rest = uniform * total;
    for (token, weight) in candidates {
        rest -= weight;
        if rest < 0.0 {
            return (*token, log_probability(*weight));
        }
    }
    candidates.first().map_or((0, 0.0), |(token, weight)| (*token, log_probability(*weight)))
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|(_, weight)| weight).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn draws_follow_the_probabilities_of_the_candidates() {
        let scores = [0.0f32, 0.5f32.ln(), 0.25f32.ln(), f32::NEG_INFINITY];
        let shares = |sampling: &Sampling| {
            let candidates = candidates(sampling, &scores);
            let mut counts = [0; 4];
            for i in 0..7000 {
                counts[draw(&candidates, f64::from(i) / 7000.0).0 as usize] += 1;
            }
            counts
        };
        let all = Sampling { top_k: 0, ..Sampling::default() };
        // The logarithms are rounded, so a draw at a boundary may select either token.
        let [first, second, third, never] = shares(&all);
        assert!(
            (first - 4000i32).abs() <= 1 && (second - 2000i32).abs() <= 1 && (third - 1000i32).abs() <= 1
        );
        assert_eq!(never, 0);
        assert_eq!(shares(&Sampling { top_k: 1, ..all.clone() }), [7000, 0, 0, 0]);
        // 4/7 alone is below 0.6, so the second token is needed too.
        let [first, second, third, _] = shares(&Sampling { top_p: 0.6, ..all.clone() });
        assert!((first - 4667i32).abs() <= 1 && (second - 2333i32).abs() <= 1 && third == 0);
        // The weights are 1, 1/2 and 1/4.
        let [_, second, third, _] = shares(&Sampling { min_p: 0.4, ..all.clone() });
        assert!((second - 2333i32).abs() <= 1 && third == 0);
        let cold = shares(&Sampling { temperature: 0.5, ..all });
        assert!(cold[0] > 5000 && cold[0] < 5500, "16 : 4 : 1");
    }

    #[test]
    fn a_draw_returns_the_log_probability_of_its_token() {
        let left = [(7, 1.0), (3, 0.5), (5, 0.5)];
        assert_eq!(draw(&left, 0.0), (7, 0.5f32.ln()));
        assert_eq!(draw(&left, 0.6), (3, 0.25f32.ln()));
        assert_eq!(draw(&left, 0.99), (5, 0.25f32.ln()));
    }

    /// `make_warpers.py` describes the fixture.
    #[test]
    fn candidates_are_those_of_transformers_logits_warpers() {
        let golden: Value =
            serde_json::from_str(include_str!("../tests/fixtures/golden_warpers.json")).unwrap();
        let rows: Vec<Vec<f32>> = serde_json::from_value(golden["scores"].clone()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 100);
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            let sampling = Sampling {
                temperature: number("temperature") as f32,
                top_k: number("top_k") as usize,
                top_p: number("top_p") as f32,
                min_p: number("min_p") as f32,
                seed: 0,
            };
            let left = candidates(&sampling, &rows[number("row") as usize]);
            let sum = total(&left);
            let mut left: Vec<(u32, f64)> =
                left.iter().map(|(token, weight)| (*token, weight / sum)).collect();
            left.sort_by_key(|(token, _)| *token);
            let expected: Vec<(u32, f64)> = serde_json::from_value(case["left"].clone()).unwrap();
            let tokens = |list: &[(u32, f64)]| list.iter().map(|(token, _)| *token).collect::<Vec<_>>();
            assert_eq!(tokens(&left), tokens(&expected), "{case}");
            for ((_, got), (token, expected)) in left.iter().zip(&expected) {
                assert!((got - expected).abs() < 1e-6, "{case}: token {token} has {got}, not {expected}");
            }
        }
    }
}
