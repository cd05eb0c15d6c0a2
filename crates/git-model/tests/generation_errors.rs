//! Options, prompts, end tokens and logits that do not fit a model.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;

use common::captions::{changed, pictures, speculative, with_number};
use git_model::{
    Caption, CaptionModel as _, EarlyStopping, GenerationConfig, GenerationError, Progress, Sampling,
};
use serde_json::Value;

#[test]
fn logits_that_are_not_numbers_are_an_error_and_no_caption() {
    let positions = "git.embeddings.position_embeddings.weight";
    for position in [0, 3] {
        for number in [f32::NAN, f32::INFINITY] {
            let (broken, features) = with_number(positions, position, number);
            let own = broken.draft().unwrap();
            let default = || GenerationConfig { min_new_tokens: 8, ..GenerationConfig::default() };
            let searches = [
                default(),
                GenerationConfig { num_beams: 2, ..default() },
                GenerationConfig {
                    sampling: Some(Sampling { top_k: 5, top_p: 0.9, min_p: 0.1, ..Sampling::default() }),
                    ..default()
                },
            ];
            for (config, draft) in searches.iter().flat_map(|config| [(config, None), (config, Some(&own))]) {
                let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
                let error = broken.generate_with(&features, None, config, draft, on_token).unwrap_err();
                let expected = GenerationError::NotNumbers { tokens: position + 1 };
                assert!(
                    matches!(&error, git_model::Error::Generation(error) if *error == expected),
                    "{number} at {position}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_bias_of_minus_infinity_forbids_a_token() {
    let (usual, features) = pictures("image", 2);
    let default = GenerationConfig::default();
    let token = usual.generate(&features, None, &default).unwrap()[0].ids[1];
    let ids = |captions: Vec<Caption>| captions.into_iter().map(|caption| caption.ids).collect::<Vec<_>>();
    let without = GenerationConfig { bad_words: vec![vec![token]], ..default.clone() };
    let expected = ids(usual.generate(&features, None, &without).unwrap());
    let (biased, _) = with_number("output.bias", token as usize, f32::NEG_INFINITY);
    assert_eq!(ids(biased.generate(&features, None, &default).unwrap()), expected);
    assert_eq!(ids(speculative(&biased, &features, None, &default, &biased.draft().unwrap())), expected);
}

#[test]
fn without_an_end_token_captions_are_as_long_as_they_may_be() {
    let (null, features) = changed(|checkpoint| {
        checkpoint["config"]["eos_token_id"] = Value::Null;
        checkpoint["config"]["pad_token_id"] = Value::Null;
    });
    let (usual, _) = changed(|_| ());
    let default =
        || GenerationConfig { max_new_tokens: 30, min_new_tokens: 3, ..GenerationConfig::default() };
    for config in [
        default(),
        GenerationConfig { num_beams: 3, num_return_sequences: 3, ..default() },
        GenerationConfig { num_beams: 2, early_stopping: EarlyStopping::Always, ..default() },
        GenerationConfig { num_return_sequences: 2, sampling: Some(Sampling::default()), ..default() },
    ] {
        let captions = null.generate(&features, None, &config).unwrap();
        assert_eq!(captions.len(), 2 * config.num_return_sequences);
        assert!(captions.iter().all(|caption| caption.ids.len() == 31), "{captions:?}");
        let none = GenerationConfig { eos_token_id: Some(Vec::new()), ..config };
        assert_eq!(usual.generate(&features, None, &none).unwrap(), captions, "as an option");
    }
}

#[test]
fn an_end_token_of_the_model_outside_its_vocabulary_is_refused() {
    let (model, features) = changed(|checkpoint| {
        checkpoint["config"]["vocab_size"] = 60.into();
        checkpoint["config"]["bos_token_id"] = 1.into();
        for name in ["git.embeddings.word_embeddings.weight", "output.weight", "output.bias"] {
            checkpoint["tensors"][name][0] = 60.into();
        }
    });
    let config = GenerationConfig { min_new_tokens: 1, ..GenerationConfig::default() };
    let error = model.generate(&features, None, &config).unwrap_err().to_string();
    assert_eq!(error, "generation: end token 102 is not in the model's vocabulary of 60");
    let other = GenerationConfig { eos_token_id: Some(vec![2]), ..config };
    assert_eq!(model.generate(&features, None, &other).unwrap().len(), 2);
}

#[test]
fn a_prompt_that_does_not_begin_with_the_start_token_is_refused() {
    let (model, features) = pictures("image", 1);
    let generate = |prompt: &[u32]| model.generate(&features, Some(prompt), &GenerationConfig::default());
    for (prompt, problem) in [
        (&[5, 101][..], "the prompt must begin with the start token, 101, and not with 5"),
        (&[], "the prompt is empty; it must hold at least the start token, 101"),
        (&[101, 999], "prompt token 999 is not in the model's vocabulary of 128"),
    ] {
        assert_eq!(generate(prompt).unwrap_err().to_string(), format!("generation: {problem}"));
    }
    assert_eq!(generate(&[101, 5]).unwrap()[0].ids[..2], [101, 5]);
}

#[test]
fn options_that_contradict_each_other_are_named() {
    let (model, features) = pictures("image", 1);
    let refusal =
        |config: GenerationConfig| model.generate(&features, None, &config).unwrap_err().to_string();
    let default = GenerationConfig::default;
    let sampling = |sampling| GenerationConfig { sampling: Some(sampling), ..default() };
    for (config, word) in [
        (GenerationConfig { num_return_sequences: 2, ..default() }, "num_return_sequences 2"),
        (GenerationConfig { num_return_sequences: 0, ..default() }, "num_return_sequences"),
        (GenerationConfig { min_new_tokens: 41, ..default() }, "min_new_tokens 41"),
        (
            GenerationConfig { max_new_tokens: 65, ..default() },
            "max_new_tokens 65 after a prompt of 1 tokens needs 65 positions, but the model has 64",
        ),
        (GenerationConfig { max_new_tokens: usize::MAX, ..default() }, "positions"),
        (GenerationConfig { eos_token_id: Some(vec![102, 999]), ..default() }, "end token 999"),
        (GenerationConfig { bad_words: vec![vec![]], ..default() }, "bad_words"),
        (GenerationConfig { bad_words: vec![vec![5, 999]], ..default() }, "999"),
        (GenerationConfig { num_beams: 2, ..sampling(Sampling::default()) }, "num_beams"),
        (sampling(Sampling { min_p: 1.5, ..Sampling::default() }), "min_p"),
        (sampling(Sampling { top_p: 0.0, ..Sampling::default() }), "top_p"),
        (sampling(Sampling { temperature: 0.0, ..Sampling::default() }), "temperature"),
    ] {
        let message = refusal(config);
        assert!(message.contains(word), "{word} in {message}");
    }
}
