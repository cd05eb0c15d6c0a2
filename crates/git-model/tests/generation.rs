//! Captions against transformers' `generate` without its cache, with and without speculative decoding.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use common::adapters::GivenAdapters;
use common::{Checkpoint as Golden, fixture_json, parameter, pixels, shape, shapes};
use git_model::{
    Caption, Checkpoint, Draft, EarlyStopping, GenerationConfig, GenerationError, GitForCausalLm,
    LoadOptions, Progress, Sampling,
};
use serde_json::Value;
use train_ops::{FrozenBuilder, FrozenLinear, LayerBuilder, LinearLayer, Pass};

fn options(value: &Value) -> GenerationConfig {
    let mut config = GenerationConfig::default();
    for (name, value) in value.as_object().unwrap() {
        let count = || value.as_u64().unwrap() as usize;
        let number = || value.as_f64().unwrap() as f32;
        match name.as_str() {
            "num_beams" => config.num_beams = count(),
            "max_new_tokens" => config.max_new_tokens = count(),
            "min_new_tokens" => config.min_new_tokens = count(),
            "length_penalty" => config.length_penalty = number(),
            "no_repeat_ngram_size" => config.no_repeat_ngram_size = count(),
            "repetition_penalty" => config.repetition_penalty = number(),
            "early_stopping" => {
                config.early_stopping = match value {
                    Value::Bool(true) => EarlyStopping::Always,
                    Value::Bool(false) => EarlyStopping::Heuristic,
                    _ => EarlyStopping::Never,
                }
            }
            "num_return_sequences" => config.num_return_sequences = count(),
            "bad_words_ids" => config.bad_words = value.as_array().unwrap().iter().map(ids).collect(),
            "eos_token_id" => config.eos_token_id = Some(ids(value)),
            other => panic!("the fixture has an option that this test does not know: {other}"),
        }
    }
    config
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn model(checkpoint: &Value, builder: &mut dyn LayerBuilder) -> GitForCausalLm {
    let dir = tempfile::tempdir().unwrap();
    Golden::new(checkpoint).write(dir.path());
    GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), builder).unwrap()
}

/// The model of a golden checkpoint, without an adapter, and a batch of its first pictures' features.
fn pictures(name: &str, count: u64) -> (GitForCausalLm, Tensor) {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"][name];
    let model = model(checkpoint, &mut FrozenBuilder);
    let pictures: Vec<_> = (0..count).map(|picture| Golden::new(checkpoint).picture(picture)).collect();
    let features = model.encode_images(&Tensor::cat(&pictures, 0).unwrap(), &Pass::inference()).unwrap();
    (model, features)
}

/// Captions by speculative decoding.
fn speculative(
    model: &GitForCausalLm,
    features: &Tensor,
    prompt: Option<&[u32]>,
    config: &GenerationConfig,
    draft: &Draft,
) -> Vec<Caption> {
    let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
    model.generate_with(features, prompt, config, Some(draft), on_token).unwrap()
}

/// A draft that is mostly right and one that is mostly wrong, for every kind of search, and from one picture, where many steps
/// are proposed, to so many pictures that none is.
#[test]
fn a_draft_does_not_change_a_bit_of_a_caption_however_wrong_it_is() {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"]["image"];
    let mut other = checkpoint.clone();
    other["seed"] = 12345.into();
    let wrong = model(&other, &mut FrozenBuilder).draft().unwrap();
    let sampling = Sampling { temperature: 2.0, ..Sampling::default() };
    let base = || GenerationConfig { max_new_tokens: 20, min_new_tokens: 8, ..GenerationConfig::default() };
    let configs = [
        base(),
        GenerationConfig { num_beams: 2, ..GenerationConfig::recipe() },
        GenerationConfig { num_beams: 4, num_return_sequences: 3, ..base() },
        GenerationConfig { num_return_sequences: 2, sampling: Some(sampling), ..base() },
        GenerationConfig { max_new_tokens: 1, min_new_tokens: 0, ..base() },
    ];
    for dtype in [DType::F32, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        Golden::new(checkpoint).write(dir.path());
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let opened = Checkpoint::open(dir.path()).unwrap();
        let model = GitForCausalLm::load_with(&opened, &mut FrozenBuilder, &options).unwrap();
        let own = model.draft().unwrap();
        for pictures in [1, 2, 5] {
            let pictures: Vec<_> =
                (0..pictures).map(|picture| Golden::new(checkpoint).picture(picture)).collect();
            let pixels = Tensor::cat(&pictures, 0).unwrap();
            let features = model.encode_images(&pixels, &Pass::inference()).unwrap();
            for (config, prompt) in configs.iter().zip([None, Some(&[101, 7, 9][..]), None, None, None]) {
                let plain = model.generate(&features, prompt, config).unwrap();
                for draft in [&own, &wrong] {
                    assert_eq!(speculative(&model, &features, prompt, config, draft), plain, "{config:?}");
                }
            }
        }
    }
}

#[test]
fn a_draft_of_another_shape_is_refused_with_both_shapes() {
    let (model, features) = pictures("image", 1);
    let dir = tempfile::tempdir().unwrap();
    common::Golden::load("small").checkpoint().write(dir.path());
    let small = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    let draft = small.draft().unwrap();
    let sizes = |model: &GitForCausalLm| {
        let (hidden_size, vocabulary) = (model.config().hidden_size, model.config().vocab_size);
        format!("hidden size {hidden_size} and a vocabulary of {vocabulary}")
    };
    assert_ne!(sizes(&small), sizes(&model));
    let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
    let config = GenerationConfig::default();
    let error =
        model.generate_with(&features, None, &config, Some(&draft), on_token).unwrap_err().to_string();
    assert!(error.contains(&sizes(&small)) && error.contains(&sizes(&model)), "{error}");
}

/// A head that records the number of rows of each of its products. It is used in the draft as it is.
#[derive(Debug)]
struct RecordingHead {
    layer: FrozenLinear,
    rows: Arc<Mutex<Vec<usize>>>,
}

impl LinearLayer for RecordingHead {
    fn forward(&self, xs: &Tensor, pass: &Pass) -> train_ops::Result<Tensor> {
        self.rows.lock().unwrap().push(xs.elem_count() / self.layer.in_features());
        self.layer.forward(xs, pass)
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.layer.in_features()
    }

    fn out_features(&self) -> usize {
        self.layer.out_features()
    }
}

/// Builds a frozen model with such a head.
struct RecordingBuilder(Arc<Mutex<Vec<usize>>>);

impl LayerBuilder for RecordingBuilder {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        let layer = FrozenLinear::new(path, weight, bias)?;
        let rows = Arc::clone(&self.0);
        Ok(if path == "output" { Arc::new(RecordingHead { layer, rows }) } else { Arc::new(layer) })
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        Ok(value)
    }
}

#[test]
fn the_model_verifies_all_proposed_tokens_in_one_pass() {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"]["image"];
    let rows = Arc::new(Mutex::new(Vec::new()));
    let model = model(checkpoint, &mut RecordingBuilder(Arc::clone(&rows)));
    let features = model.encode_images(&Golden::new(checkpoint).picture(0), &Pass::inference()).unwrap();
    let draft = model.draft().unwrap();
    let config = GenerationConfig { max_new_tokens: 26, min_new_tokens: 26, ..GenerationConfig::default() };
    let products = |captions: Vec<Caption>| {
        assert_eq!(captions[0].ids.len(), 27);
        rows.lock().unwrap().drain(..).collect::<Vec<_>>()
    };
    assert_eq!(products(model.generate(&features, None, &config).unwrap()), [1; 26]);
    // After the prompt, the model reads a token and three proposals, and each time one more, up to eight rows. The draft has
    // a pass for each of its proposals; the last one is that nothing follows.
    let products = products(speculative(&model, &features, None, &config, &draft));
    let verified: Vec<_> = products.iter().copied().filter(|rows| *rows > 1).collect();
    assert_eq!(verified, [4, 5, 6, 7, 3], "{products:?}");
    assert_eq!(products.iter().filter(|rows| **rows == 1).count(), 1 + 3 + 4 + 5 + 6 + 3);
}

#[test]
fn captions_are_those_of_transformers_one_by_one_and_in_batches() {
    let golden = fixture_json("golden_generation.json");
    for (name, checkpoint) in golden["checkpoints"].as_object().unwrap() {
        let source = Golden::new(checkpoint);
        let model = model(checkpoint, &mut FrozenBuilder);
        let draft = model.draft().unwrap();
        let features =
            |picture: u64| model.encode_images(&source.picture(picture), &Pass::inference()).unwrap();
        for (case, facts) in golden["cases"].as_object().unwrap() {
            if facts["checkpoint"] != name.as_str() {
                continue;
            }
            let config = options(&facts["options"]);
            let captions = facts["captions"].as_array().unwrap();
            assert!(!captions.is_empty(), "{case} has no captions");
            let prompt = facts.get("prompt").filter(|prompt| !prompt.is_null()).map(ids);
            let mut all_features = Vec::new();
            for caption in captions {
                let picture = caption["picture"].as_u64().unwrap();
                let prompt = caption.get("prompt").map(ids).or(prompt.clone());
                let features = features(picture);
                let generated = model.generate(&features, prompt.as_deref(), &config).unwrap();
                assert_eq!(generated[0].ids, ids(&caption["ids"]), "{case}, picture {picture}");
                let speculative = speculative(&model, &features, prompt.as_deref(), &config, &draft);
                assert_eq!(speculative, generated, "{case}, picture {picture} with a draft");
                all_features.push(features);
            }
            if captions.iter().all(|caption| caption.get("prompt").is_none()) {
                let batch = Tensor::cat(&all_features, 0).unwrap();
                let generated = model.generate(&batch, prompt.as_deref(), &config).unwrap();
                for (generated, caption) in generated.iter().zip(captions) {
                    assert_eq!(
                        generated.ids,
                        ids(&caption["ids"]),
                        "{case}, picture {} in a batch",
                        caption["picture"]
                    );
                }
            }
        }
    }
}

/// The model of the golden checkpoint `image` with the first number of a tensor's row replaced, and the features of its first
/// two pictures.
fn with_number(name: &str, row: usize, number: f32) -> (GitForCausalLm, Tensor) {
    let dir = tempfile::tempdir().unwrap();
    Golden::new(&fixture_json("golden_generation.json")["checkpoints"]["image"]).write(dir.path());
    let file = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let tensor = &tensors[name];
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let width = values.len() / tensor.dims()[0];
    values[row * width] = number;
    let changed = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), changed);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let model = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    let (_, features) = pictures("image", 2);
    (model, features)
}

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

/// The model of the golden checkpoint `image` with a changed configuration, and the features of its first two pictures.
fn changed(change: impl Fn(&mut Value)) -> (GitForCausalLm, Tensor) {
    let mut checkpoint = fixture_json("golden_generation.json")["checkpoints"]["image"].take();
    checkpoint["eos_bias"].take();
    change(&mut checkpoint);
    let pictures: Vec<_> = (0..2).map(|picture| Golden::new(&checkpoint).picture(picture)).collect();
    let model = model(&checkpoint, &mut FrozenBuilder);
    let features = model.encode_images(&Tensor::cat(&pictures, 0).unwrap(), &Pass::inference()).unwrap();
    (model, features)
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

/// `make_options.py` describes the cases; each is generated alone, and as the second picture of a batch.
#[test]
fn captions_and_scores_over_random_options_are_those_of_transformers_with_and_without_an_adapter() {
    let golden = fixture_json("golden_options.json");
    let mut cases = 0;
    for (name, group) in golden["groups"].as_object().unwrap() {
        let checkpoint = &golden["checkpoints"][group["checkpoint"].as_str().unwrap()];
        let mut lora;
        let builder: &mut dyn LayerBuilder = match group.get("adapter") {
            None => &mut FrozenBuilder,
            Some(adapter) => {
                let seed = Golden::new(checkpoint).seed();
                let scale = golden["lora"]["scale"].as_f64().unwrap();
                let weights = shapes(adapter)
                    .into_iter()
                    .map(|(key, shape)| (key.clone(), parameter(seed, &key, &shape, scale)));
                lora = GivenAdapters::new(&golden["lora"], weights.collect::<HashMap<_, _>>());
                &mut lora
            }
        };
        let model = model(checkpoint, builder);
        let draft = model.draft().unwrap();
        let seed = group["picture_seed"].as_u64().unwrap();
        let features = |picture: u64| {
            let shape = shape(&checkpoint["picture_shape"]);
            let picture = pixels(seed, &format!("picture.{picture}"), &shape).unsqueeze(0).unwrap();
            model.encode_images(&picture, &Pass::inference()).unwrap()
        };
        for case in group["cases"].as_array().unwrap() {
            let config = options(&case["options"]);
            let prompt = case.get("prompt").map(ids);
            let picture = case["picture"].as_u64().unwrap();
            let expected = case["captions"].as_array().unwrap();
            let agree = |captions: &[Caption]| {
                assert_eq!(captions.len(), expected.len());
                for (caption, expected) in captions.iter().zip(expected) {
                    assert_eq!(caption.ids, ids(&expected["ids"]), "{name}, {case}");
                    let score = expected["score"].as_f64().unwrap();
                    let error = (f64::from(caption.score) / score - 1.0).abs();
                    assert!(error < 2e-6, "{name}, {case}: score {}, off by {error:e}", caption.score);
                }
            };
            let picture_features = features(picture);
            let generated = model.generate(&picture_features, prompt.as_deref(), &config).unwrap();
            agree(&generated);
            let speculative = speculative(&model, &picture_features, prompt.as_deref(), &config, &draft);
            assert_eq!(speculative, generated, "{name}, {case} with a draft");
            let batch = Tensor::cat(&[&features(picture + 1), &picture_features], 0).unwrap();
            let both = model.generate(&batch, prompt.as_deref(), &config).unwrap();
            agree(&both[config.num_return_sequences..]);
            cases += 1;
        }
    }
    assert!(cases >= 200, "{cases}");
}

#[test]
fn every_token_is_reported_once_and_in_order() {
    let (model, features) = pictures("image", 3);
    let own = model.draft().unwrap();
    let drawn = GenerationConfig {
        num_return_sequences: 2,
        sampling: Some(Sampling::default()),
        ..GenerationConfig::default()
    };
    for (config, draft) in
        [(GenerationConfig::default(), None), (GenerationConfig::default(), Some(&own)), (drawn, None)]
    {
        let mut reported = vec![Vec::new(); 3 * config.num_return_sequences];
        let captions = model.generate_with(&features, None, &config, draft, &mut |progress| {
            let sequence = progress.picture * config.num_return_sequences + progress.sequence;
            assert_eq!(
                progress.ids.len(),
                reported[sequence].len() + 2,
                "one more token each time, after the start token"
            );
            reported[sequence].push(*progress.ids.last().unwrap());
            ControlFlow::Continue(())
        });
        for (caption, reported) in captions.unwrap().iter().zip(&reported) {
            assert_eq!(caption.ids[1..], *reported);
        }
    }
}

#[test]
fn the_last_report_of_a_beam_search_is_its_best_caption() {
    let (model, features) = pictures("image", 2);
    let mut last = vec![Vec::new(); 2];
    let captions = model.generate_with(&features, None, &GenerationConfig::recipe(), None, &mut |progress| {
        last[progress.picture] = progress.ids.to_vec();
        ControlFlow::Continue(())
    });
    assert_eq!(captions.unwrap().into_iter().map(|caption| caption.ids).collect::<Vec<_>>(), last);
}

#[test]
fn breaking_from_a_report_ends_the_captions_where_they_are() {
    let (model, features) = pictures("image", 1);
    let own = model.draft().unwrap();
    for (beams, draft) in [(1, None), (3, None), (1, Some(&own)), (3, Some(&own))] {
        let config = GenerationConfig { num_beams: beams, min_new_tokens: 10, ..GenerationConfig::default() };
        let captions = model.generate_with(&features, None, &config, draft, &mut |progress| {
            if progress.ids.len() == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let captions = captions.unwrap();
        assert_eq!((captions.len(), captions[0].ids.len()), (1, 5));
        assert!(captions[0].score.is_finite());
    }
}

#[test]
fn draws_differ_between_captions_and_seeds_and_not_with_the_batch() {
    let (model, features) = pictures("image", 2);
    let config = |seed: u64| GenerationConfig {
        num_return_sequences: 3,
        sampling: Some(Sampling { temperature: 2.0, seed, ..Sampling::default() }),
        ..GenerationConfig::default()
    };
    let both = model.generate(&features, None, &config(1)).unwrap();
    let second = model.generate(&features.narrow(0, 1, 1).unwrap(), None, &config(1)).unwrap();
    assert_eq!(
        both[3..].iter().map(|c| &c.ids).collect::<Vec<_>>(),
        second.iter().map(|c| &c.ids).collect::<Vec<_>>()
    );
    assert!(both[0].ids != both[1].ids && both[1].ids != both[2].ids);
    assert_ne!(model.generate(&features, None, &config(2)).unwrap()[0].ids, both[0].ids);
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
