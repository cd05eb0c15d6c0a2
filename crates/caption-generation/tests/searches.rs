//! Greedy decoding and beam search, against captions found by other means.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod toy;

use caption_generation::{EarlyStopping, GenerationConfig};
use toy::{END, START, Toy, VOCAB_SIZE, generate, scattered, searches};

/// Probabilities of the next token after a path; the rest of the vocabulary is impossible.
fn garden_path(_: usize, ids: &[u32]) -> Vec<f32> {
    let probabilities: &[(u32, f32)] = match ids[1..] {
        [] => &[(1, 0.6), (2, 0.4)],
        [1] => &[(3, 0.4), (4, 0.3), (5, 0.3)],
        [2] => &[(6, 0.9), (7, 0.1)],
        _ => &[(END, 1.0)],
    };
    let mut logits = vec![f32::NEG_INFINITY; VOCAB_SIZE];
    for (token, probability) in probabilities {
        logits[*token as usize] = probability.ln();
    }
    logits
}

#[test]
fn beam_search_finds_the_caption_that_greedy_decoding_misses() {
    let caption = |num_beams, length_penalty| {
        let config = GenerationConfig { num_beams, length_penalty, ..GenerationConfig::default() };
        generate(&mut Toy::new(garden_path, garden_path, 1), None, &config).swap_remove(0)
    };
    let greedy = caption(1, 1.0);
    assert_eq!(greedy.ids, [START, 1, 3, END]);
    assert!((greedy.score - (0.6f32 * 0.4).ln() / 3.0).abs() < 1e-6, "{}", greedy.score);
    let beams = caption(2, 0.0);
    assert_eq!(beams.ids, [START, 2, 6, END]);
    assert!((beams.score - (0.4f32 * 0.9).ln()).abs() < 1e-6, "{}", beams.score);
}

/// The best caption of all that are possible, by its score.
fn best_of_all(picture: usize, ids: &mut Vec<u32>, total: f64, config: &GenerationConfig) -> (Vec<u32>, f64) {
    let new = ids.len() - 1;
    if new > 0 && (ids.last() == Some(&END) || new == config.max_new_tokens) {
        return (ids.clone(), total / (new as f64).powf(f64::from(config.length_penalty)));
    }
    let logits = scattered(picture, ids);
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut best = (Vec::new(), f64::NEG_INFINITY);
    for (token, logit) in (0u32..).zip(logits) {
        ids.push(token);
        let found = best_of_all(picture, ids, total + f64::from(logit) - sum.ln(), config);
        ids.pop();
        if found.1 > best.1 {
            best = found;
        }
    }
    best
}

#[test]
fn beam_search_with_beams_for_all_sequences_finds_the_best_caption_of_all() {
    for length_penalty in [0.0, 0.5, 1.0, 2.0] {
        let config = GenerationConfig {
            num_beams: VOCAB_SIZE * VOCAB_SIZE,
            max_new_tokens: 3,
            early_stopping: EarlyStopping::Never,
            length_penalty,
            ..GenerationConfig::default()
        };
        let captions = generate(&mut Toy::new(scattered, scattered, 6), None, &config);
        for (picture, caption) in captions.iter().enumerate() {
            let (ids, score) = best_of_all(picture, &mut vec![START], 0.0, &config);
            assert!((f64::from(caption.score) - score).abs() < 1e-5, "{caption:?}, not {ids:?} with {score}");
        }
    }
}

#[test]
fn a_batch_without_pictures_has_no_captions() {
    assert_eq!(generate(&mut Toy::new(scattered, scattered, 0), None, &GenerationConfig::default()), []);
}

#[test]
fn captions_of_a_picture_do_not_depend_on_the_batch() {
    for config in searches() {
        let batch = generate(&mut Toy::new(scattered, scattered, 3), None, &config);
        let first = generate(&mut Toy::new(scattered, scattered, 1), None, &config);
        assert_eq!(batch[..config.num_return_sequences], first, "{config:?}");
    }
}

/// Many logits of the toy are equal, so that the order of equals matters.
#[test]
fn captions_found_from_the_best_tokens_are_those_found_from_all() {
    let beams = || GenerationConfig { num_beams: 3, num_return_sequences: 3, ..GenerationConfig::default() };
    let penalised = GenerationConfig {
        repetition_penalty: 1.3,
        no_repeat_ngram_size: 2,
        bad_words: vec![vec![3], vec![1, 2]],
        min_new_tokens: 3,
        max_new_tokens: 20,
        ..beams()
    };
    let renormalised = GenerationConfig { renormalize_logits: true, ..penalised.clone() };
    let rewarded = GenerationConfig { repetition_penalty: 0.8, ..beams() };
    let configs = searches().into_iter().chain([penalised, renormalised, rewarded]);
    let mut from_best = 0;
    for config in configs {
        for picture in 1..9 {
            let mut toy = Toy::new(scattered, scattered, picture);
            toy.returns_best = true;
            let found = generate(&mut toy, None, &config);
            let expected = generate(&mut Toy::new(scattered, scattered, picture), None, &config);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.ids, expected.ids, "{config:?}");
                assert!((found.score - expected.score).abs() < 1e-5, "{config:?}");
            }
            from_best += usize::from(!toy.asked_for.is_empty());
            let whole = config.sampling.is_some()
                || config.renormalize_logits
                || config.repetition_penalty < 1.0
                || (config.num_beams == 1 && config.repetition_penalty != 1.0);
            assert!(!whole || toy.asked_for.is_empty(), "{config:?} needs whole rows");
        }
    }
    assert!(from_best >= 8 * 5, "{from_best} batches were decoded from the best tokens");
}

#[test]
fn a_search_asks_for_as_many_tokens_as_decide_its_next_step() {
    let asked_for = |config: &GenerationConfig| {
        let mut toy = Toy::new(scattered, scattered, 1);
        toy.returns_best = true;
        generate(&mut toy, None, config);
        toy.asked_for
    };
    let config = |num_beams, no_repeat_ngram_size| GenerationConfig {
        num_beams,
        no_repeat_ngram_size,
        max_new_tokens: 4,
        early_stopping: EarlyStopping::Never,
        ..GenerationConfig::default()
    };
    assert!(asked_for(&config(1, 0)).iter().all(|count| *count == 1), "greedy: the best");
    assert_eq!(asked_for(&config(2, 0))[..2], [4, 4], "two continuations of each beam");
    assert_eq!(asked_for(&config(2, 2))[..2], [5, 6], "and the tokens that may be forbidden");
    assert_eq!(asked_for(&config(5, 2))[..2], [11, 12], "at most the vocabulary");
}
