//! The searches with a model that is no transformer: its logits are a function of the picture and of all tokens so far.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use caption_generation::{
    Caption, CaptionDecoder, EarlyStopping, Error, GenerationConfig, Generator, ModelTokens, Progress,
    Sampling, SpeculativeDecoder, Step,
};

/// The logits of the next token, from a picture's index and the tokens so far.
type Logits = fn(usize, &[u32]) -> Vec<f32>;

/// A live sequence: the index of its picture, and its tokens.
type Sequence = (usize, Vec<u32>);

struct Toy {
    model: Logits,
    draft: Logits,
    sequences: Vec<Sequence>,
    /// The sequences after each step that was verified last.
    verified: Vec<Vec<Sequence>>,
    /// Rows of each pass of the model.
    passes: Vec<usize>,
    /// Number of passes of the draft.
    draft_passes: usize,
}

impl Toy {
    fn new(model: Logits, draft: Logits, pictures: usize) -> Self {
        let sequences = (0..pictures).map(|picture| (picture, Vec::new())).collect();
        Self { model, draft, sequences, verified: Vec::new(), passes: Vec::new(), draft_passes: 0 }
    }

    /// The sequences after each of `steps`.
    fn after(&self, steps: &[Step]) -> Vec<Vec<Sequence>> {
        let mut sequences = self.sequences.clone();
        let apply = |step: &Step| {
            let parents = step.parents.iter().zip(&step.tokens);
            let extended = parents.map(|(parent, token)| {
                let (picture, ids) = &sequences[*parent];
                (*picture, [ids.as_slice(), &[*token]].concat())
            });
            sequences = extended.collect();
            sequences.clone()
        };
        steps.iter().map(apply).collect()
    }
}

fn rows(logits: Logits, sequences: &[Sequence]) -> Vec<f32> {
    sequences.iter().flat_map(|(picture, ids)| logits(*picture, ids)).collect()
}

impl CaptionDecoder for Toy {
    type Error = Error;

    fn sequences(&self) -> usize {
        self.sequences.len()
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let new = tokens.len() / self.sequences.len();
        for ((_, ids), tokens) in self.sequences.iter_mut().zip(tokens.chunks(new)) {
            ids.extend(tokens);
        }
        self.passes.push(tokens.len());
        Ok(rows(self.model, &self.sequences))
    }

    fn reorder(&mut self, parents: &[usize]) -> Result<(), Error> {
        self.sequences = parents.iter().map(|parent| self.sequences[*parent].clone()).collect();
        Ok(())
    }
}

impl SpeculativeDecoder for Toy {
    fn draft_logits(&mut self, steps: &[Step]) -> Result<Vec<f32>, Error> {
        self.draft_passes += 1;
        Ok(rows(self.draft, self.after(steps).last().unwrap()))
    }

    fn verify(&mut self, steps: &[Step]) -> Result<Vec<f32>, Error> {
        self.verified = self.after(steps);
        let all = self.verified.concat();
        self.passes.push(all.len());
        Ok(rows(self.model, &all))
    }

    fn accept(&mut self, accepted: usize) -> Result<(), Error> {
        self.sequences = self.verified.swap_remove(accepted - 1);
        Ok(())
    }
}

/// Number of tokens of the toy; the start token is the last, as BLIP's is, and the end token the one before it.
const VOCAB_SIZE: usize = 12;
const START: u32 = 11;
const END: u32 = 10;

fn model() -> ModelTokens {
    ModelTokens { vocab_size: VOCAB_SIZE, start_token: START, end_tokens: vec![END], max_length: 64 }
}

/// Logits in [-4, 4) that depend on every token and on the picture. They are multiples of 1/4, so that many are equal.
fn scattered(picture: usize, ids: &[u32]) -> Vec<f32> {
    let mut state = ids.iter().fold(picture as u64 + 1, |state, id| {
        (state ^ u64::from(*id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    let mut next = || {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        ((state >> 59) as f32 - 16.0) / 4.0
    };
    (0..VOCAB_SIZE).map(|_| next()).collect()
}

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

fn continue_always(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn generate(toy: &mut Toy, prompt: Option<&[u32]>, config: &GenerationConfig) -> Vec<Caption> {
    Generator::new(&model(), prompt, config).unwrap().generate(toy, &mut continue_always).unwrap()
}

/// One configuration for each kind of search, with the options that change logits.
fn searches() -> Vec<GenerationConfig> {
    let base = || GenerationConfig { max_new_tokens: 20, min_new_tokens: 4, ..GenerationConfig::default() };
    let sampling = Sampling { temperature: 1.5, top_k: 6, top_p: 0.9, min_p: 0.02, seed: 5 };
    vec![
        base(),
        GenerationConfig { repetition_penalty: 1.3, no_repeat_ngram_size: 2, ..base() },
        GenerationConfig { num_beams: 3, num_return_sequences: 2, ..base() },
        GenerationConfig { num_beams: 2, early_stopping: EarlyStopping::Always, ..base() },
        GenerationConfig {
            num_beams: 4,
            early_stopping: EarlyStopping::Never,
            length_penalty: 2.0,
            ..base()
        },
        GenerationConfig { bad_words: vec![vec![3], vec![1, 2]], min_new_tokens: 0, ..base() },
        GenerationConfig { num_return_sequences: 3, sampling: Some(sampling), ..base() },
        GenerationConfig { max_new_tokens: 1, min_new_tokens: 0, ..base() },
    ]
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
