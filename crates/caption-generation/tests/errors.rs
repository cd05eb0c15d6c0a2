//! Prompts, options and logits that do not fit.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod toy;

use caption_generation::{BestTokens, CaptionDecoder, Error, GenerationConfig, Generator, NextTokens};
use toy::{Logits, START, Toy, VOCAB_SIZE, continue_always, model, scattered, searches};

#[test]
fn logits_that_are_not_numbers_or_too_few_are_errors_that_say_so() {
    fn broken_later(picture: usize, ids: &[u32]) -> Vec<f32> {
        let mut logits = scattered(picture, ids);
        if ids.len() == 3 {
            logits[7] = f32::NAN;
        }
        logits
    }
    fn too_few(_: usize, ids: &[u32]) -> Vec<f32> {
        vec![0.0; if ids.len() == 2 { VOCAB_SIZE - 1 } else { VOCAB_SIZE }]
    }
    let model = model();
    for config in searches().iter().filter(|config| config.min_new_tokens > 2) {
        let generator = Generator::new(&model, None, config).unwrap();
        let live = config.num_beams.max(config.num_return_sequences);
        let count =
            Error::LogitCount { got: live * (VOCAB_SIZE - 1), sequences: live, vocab_size: VOCAB_SIZE };
        for (logits, expected) in
            [(broken_later as Logits, Error::NotNumbers { tokens: 3 }), (too_few, count)]
        {
            let plain = generator.generate(&mut Toy::new(logits, logits, 1), &mut continue_always);
            assert_eq!(plain.unwrap_err(), expected, "{config:?}");
        }
        let mut toy = Toy::new(broken_later, scattered, 1);
        let speculative = generator.generate_speculatively(&mut toy, &mut continue_always);
        assert_eq!(speculative.unwrap_err(), Error::NotNumbers { tokens: 3 }, "{config:?}");
        let mut toy = Toy::new(scattered, too_few, 1);
        let speculative = generator.generate_speculatively(&mut toy, &mut continue_always);
        assert!(matches!(speculative, Err(Error::LogitCount { .. })), "{config:?}");
    }
}

#[test]
fn prompts_and_lengths_that_do_not_fit_the_model_are_refused_with_both_sides() {
    let model = model();
    let default = GenerationConfig::default;
    let refusal = |prompt: Option<&[u32]>, config: &GenerationConfig| {
        Generator::new(&model, prompt, config).map(|_| ()).unwrap_err().to_string()
    };
    for (prompt, config, expected) in [
        (&[][..], default(), "the prompt is empty; it must hold at least the start token, 11"),
        (&[5, START], default(), "the prompt must begin with the start token, 11, and not with 5"),
        (&[START, 12], default(), "prompt token 12 is not in the model's vocabulary of 12"),
        (
            &[START],
            GenerationConfig { eos_token_id: Some(vec![99]), ..default() },
            "end token 99 is not in the model's vocabulary of 12",
        ),
        (
            &[START],
            GenerationConfig { bad_words: vec![vec![1, 99]], ..default() },
            "token of bad_words 99 is not in the model's vocabulary of 12",
        ),
        (
            &[START, 1],
            GenerationConfig { max_new_tokens: 64, ..default() },
            "max_new_tokens 64 after a prompt of 2 tokens needs 65 positions, but the model has 64",
        ),
        (
            &[START],
            GenerationConfig { num_beams: 0, num_return_sequences: 0, ..default() },
            "num_beams must be at least 1; num_return_sequences must be at least 1",
        ),
    ] {
        assert_eq!(refusal(Some(prompt), &config), format!("generation: {expected}"));
    }
    let longest = GenerationConfig { max_new_tokens: usize::MAX, ..default() };
    assert!(refusal(None, &longest).contains("positions, but the model has 64"));
}

#[test]
fn cached_tokens_are_enough_for_all_that_the_model_reads() {
    let model = model();
    for config in searches() {
        let generator = Generator::new(&model, Some(&[START, 4]), &config).unwrap();
        let mut toy = Toy::new(scattered, scattered, 2);
        generator.generate(&mut toy, &mut continue_always).unwrap();
        let read: usize = toy.passes.iter().sum();
        assert!(read <= generator.cached_tokens(2), "{config:?}");
        let live = 2 * config.num_beams.max(config.num_return_sequences);
        assert_eq!(generator.cached_tokens(2), 2 * 2 + live * (config.max_new_tokens - 1));
    }
}

/// A decoder that always returns these best tokens.
struct Wrong(BestTokens);

impl CaptionDecoder for Wrong {
    type Error = Error;

    fn sequences(&self) -> usize {
        1
    }

    fn append(&mut self, _tokens: &[u32]) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; VOCAB_SIZE])
    }

    fn append_for_best(&mut self, _tokens: &[u32], _count: usize) -> Result<NextTokens, Error> {
        Ok(NextTokens::Best(self.0.clone()))
    }

    fn reorder(&mut self, _parents: &[usize]) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn best_tokens_that_are_too_few_unknown_or_not_numbers_are_errors() {
    let (model, config) = (model(), GenerationConfig::default());
    let generator = Generator::new(&model, None, &config).unwrap();
    let error = |best: BestTokens| generator.generate(&mut Wrong(best), &mut continue_always).unwrap_err();
    let best = BestTokens { count: 2, ids: vec![3, 4], logits: vec![1.0, 0.5], log_sums: vec![2.0] };
    let wrong = |got| Error::BestTokens { count: 2, sequences: 1, got };
    assert_eq!(error(BestTokens { ids: vec![3], ..best.clone() }), wrong(1));
    assert_eq!(error(BestTokens { ids: vec![3, VOCAB_SIZE as u32], ..best.clone() }), wrong(2));
    assert_eq!(error(BestTokens { log_sums: Vec::new(), ..best.clone() }), wrong(2));
    assert_eq!(error(BestTokens { log_sums: vec![f32::NAN], ..best }), Error::NotNumbers { tokens: 1 });
}
