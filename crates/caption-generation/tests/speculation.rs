//! Speculative decoding with drafts of every quality.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod toy;

use std::ops::ControlFlow;

use caption_generation::{GenerationConfig, Generator, Progress};
use toy::{END, Logits, START, Toy, VOCAB_SIZE, continue_always, generate, model, scattered, searches};

/// As [`scattered`], but another function of the tokens at every third position.
fn sometimes_wrong(picture: usize, ids: &[u32]) -> Vec<f32> {
    scattered(if ids.len().is_multiple_of(3) { picture + 1000 } else { picture }, ids)
}

/// Almost always wrong.
fn wrong(picture: usize, ids: &[u32]) -> Vec<f32> {
    scattered(picture, ids).into_iter().map(|logit| -logit).collect()
}

/// As [`scattered`], but with three likely tokens only, so that beams often continue with the same tokens as one another.
fn three_tokens(picture: usize, ids: &[u32]) -> Vec<f32> {
    let likely = |token| [1, 2, END as usize].contains(&token);
    let logits = scattered(picture, ids).into_iter().enumerate();
    logits.map(|(token, logit)| if likely(token) { logit } else { -30.0 }).collect()
}

/// Proposes the tokens of [`three_tokens`], but often for other beams.
fn three_tokens_of_another_picture(picture: usize, ids: &[u32]) -> Vec<f32> {
    three_tokens(picture + 1000, ids)
}

/// A draft that is broken.
fn not_numbers(_: usize, _: &[u32]) -> Vec<f32> {
    vec![f32::NAN; VOCAB_SIZE]
}

#[test]
fn speculative_decoding_gives_the_captions_of_plain_decoding_whatever_the_draft_proposes() {
    let pairs: [(Logits, Logits); 5] = [
        (scattered, scattered),
        (scattered, sometimes_wrong),
        (scattered, wrong),
        (scattered, not_numbers),
        (three_tokens, three_tokens_of_another_picture),
    ];
    let searches = searches();
    for (config, (logits, draft)) in searches.iter().flat_map(|config| pairs.map(|pair| (config, pair))) {
        for pictures in [1, 2, 3, 7] {
            for prompt in [None, Some(&[START, 4, 2][..])] {
                let plain = generate(&mut Toy::new(logits, logits, pictures), prompt, config);
                assert_eq!(plain.len(), pictures * config.num_return_sequences);
                let mut toy = Toy::new(logits, draft, pictures);
                let model = model();
                let generator = Generator::new(&model, prompt, config).unwrap();
                let speculative = generator.generate_speculatively(&mut toy, &mut continue_always).unwrap();
                assert_eq!(speculative, plain, "{config:?}, {pictures} pictures");
                let live = pictures * config.num_beams.max(config.num_return_sequences);
                assert!(toy.passes[1..].iter().all(|rows| *rows <= live.max(8)), "{:?}", toy.passes);
            }
        }
    }
}

#[test]
fn a_draft_that_is_right_saves_passes_and_proposes_more_from_pass_to_pass() {
    let config = GenerationConfig { max_new_tokens: 26, min_new_tokens: 26, ..GenerationConfig::default() };
    let mut plain = Toy::new(scattered, scattered, 1);
    generate(&mut plain, None, &config);
    assert_eq!(plain.passes, [1; 26]);
    let mut toy = Toy::new(scattered, scattered, 1);
    let model = model();
    let generator = Generator::new(&model, None, &config).unwrap();
    generator.generate_speculatively(&mut toy, &mut continue_always).unwrap();
    // After the prompt, a known step with 3 proposals, and one more each time until the captions are complete.
    assert_eq!(toy.passes, [1, 4, 5, 6, 7, 3]);
    assert_eq!(toy.draft_passes, 3 + 4 + 5 + 6 + 3);
}

#[test]
fn a_draft_that_is_always_wrong_is_asked_less_and_less() {
    let config = GenerationConfig { max_new_tokens: 40, min_new_tokens: 40, ..GenerationConfig::default() };
    let mut toy = Toy::new(scattered, wrong, 1);
    let model = model();
    let generator = Generator::new(&model, None, &config).unwrap();
    generator.generate_speculatively(&mut toy, &mut continue_always).unwrap();
    // The prompt, then the verifications: the draft is asked for the first with 3 proposals, and for those whose number is a
    // power of two with one.
    let mut expected = vec![1; 40];
    expected[1] = 4;
    for asked in [2, 4, 8, 16, 32] {
        expected[asked] = 2;
    }
    assert_eq!(toy.passes, expected);
    assert_eq!(toy.draft_passes, 3 + 5);
}

#[test]
fn a_draft_that_is_right_again_proposes_more_from_pass_to_pass() {
    let config = GenerationConfig { max_new_tokens: 40, min_new_tokens: 40, ..GenerationConfig::default() };
    // Wrong for the first 20 tokens. The limit of 40 cuts the last proposals.
    let draft = |picture: usize, ids: &[u32]| match ids.len() < 20 {
        true => wrong(picture, ids),
        false => scattered(picture, ids),
    };
    let mut toy = Toy::new(scattered, draft, 1);
    let model = model();
    let generator = Generator::new(&model, None, &config).unwrap();
    generator.generate_speculatively(&mut toy, &mut continue_always).unwrap();
    // Asked for the verifications 1, 2, 4, 8, 16 and 32; from then on it proposes one step more each time.
    assert_eq!(toy.passes[32..], [2, 3, 3], "{:?}", toy.passes);
}

#[test]
fn every_token_is_reported_once_and_in_order_with_and_without_a_draft() {
    let model = model();
    for config in searches().into_iter().filter(|config| config.num_beams == 1) {
        let generator = Generator::new(&model, None, &config).unwrap();
        for speculative in [false, true] {
            let mut reported = vec![vec![START]; 2 * config.num_return_sequences];
            let mut toy = Toy::new(scattered, sometimes_wrong, 2);
            let on_token = &mut |progress: Progress<'_>| {
                let caption =
                    &mut reported[progress.picture * config.num_return_sequences + progress.sequence];
                caption.push(*progress.ids.last().unwrap());
                assert_eq!(caption, progress.ids);
                ControlFlow::Continue(())
            };
            let captions = match speculative {
                false => generator.generate(&mut toy, on_token),
                true => generator.generate_speculatively(&mut toy, on_token),
            };
            let ids: Vec<_> = captions.unwrap().into_iter().map(|caption| caption.ids).collect();
            assert_eq!(ids, reported, "{config:?}");
        }
    }
}
