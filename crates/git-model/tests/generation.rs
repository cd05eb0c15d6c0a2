//! Captions against transformers' `generate` without its cache, one by one, in batches and by speculative decoding.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;

use candle_core::Tensor;
use common::adapters::GivenAdapters;
use common::captions::{model, pictures, speculative};
use common::{Checkpoint as Golden, device, fixture_json, parameter, picture, shapes, some};
use git_model::{
    Caption, CaptionModel as _, Draft, EarlyStopping, GenerationConfig, GitForCausalLm, Sampling,
};
use serde_json::Value;
use train_ops::{ForwardContext, FrozenBuilder, LayerBuilder};

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
            "renormalize_logits" => config.renormalize_logits = value.as_bool().unwrap(),
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

/// The draft of a model, if there can be one on its device.
fn draft(model: &GitForCausalLm) -> Option<Draft> {
    model.device().is_cpu().then(|| model.draft().unwrap())
}

/// On the device `TEST_DEVICE`, as the next test, on others than the CPU some of them.
#[test]
fn captions_are_those_of_transformers_one_by_one_and_in_batches() {
    let golden = fixture_json("golden_generation.json");
    for (name, checkpoint) in golden["checkpoints"].as_object().unwrap() {
        let source = Golden::new(checkpoint);
        let model = model(checkpoint, &mut FrozenBuilder);
        let draft = draft(&model);
        let features = |picture: u64| {
            model.encode_images(&source.picture(picture), &ForwardContext::inference()).unwrap()
        };
        for (case, facts) in golden["cases"].as_object().unwrap() {
            if facts["checkpoint"] != name.as_str() {
                continue;
            }
            let config = options(&facts["options"]);
            let captions = some(facts["captions"].as_array().unwrap());
            assert!(!captions.is_empty(), "{case} has no captions");
            let prompt = facts.get("prompt").filter(|prompt| !prompt.is_null()).map(ids);
            let mut all_features = Vec::new();
            for caption in &captions {
                let picture = caption["picture"].as_u64().unwrap();
                let prompt = caption.get("prompt").map(ids).or(prompt.clone());
                let features = features(picture);
                let generated = model.generate(&features, prompt.as_deref(), &config).unwrap();
                assert_eq!(generated[0].ids, ids(&caption["ids"]), "{case}, picture {picture}");
                if let Some(score) = caption.get("score").and_then(Value::as_f64) {
                    let error = (f64::from(generated[0].score) / score - 1.0).abs();
                    assert!(error < 1e-5, "{case}, picture {picture}: score off by {error:e}");
                }
                if let Some(draft) = &draft {
                    let speculative = speculative(&model, &features, prompt.as_deref(), &config, draft);
                    assert_eq!(speculative, generated, "{case}, picture {picture} with a draft");
                }
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

/// `make_options.py` describes the cases; each is generated alone, and as the second picture of a batch.
#[test]
fn captions_and_scores_over_random_options_are_those_of_transformers_with_and_without_an_adapter() {
    let golden = fixture_json("golden_options.json");
    let bound = if device().is_cpu() { 2e-6 } else { 1e-5 };
    let mut cases = 0;
    for (name, group) in golden["groups"].as_object().unwrap() {
        let checkpoint = &golden["checkpoints"][group["checkpoint"].as_str().unwrap()];
        let mut lora;
        let builder: &mut dyn LayerBuilder = match group.get("adapter") {
            None => &mut FrozenBuilder,
            Some(adapter) => {
                let seed = Golden::new(checkpoint).seed();
                let scale = golden["lora"]["scale"].as_f64().unwrap();
                let weights = shapes(adapter).into_iter().map(|(key, shape)| {
                    let weight = parameter(seed, &key, &shape, scale).to_device(&device()).unwrap();
                    (key, weight)
                });
                lora = GivenAdapters::new(&golden["lora"], weights.collect::<HashMap<_, _>>());
                &mut lora
            }
        };
        let model = model(checkpoint, builder);
        let draft = draft(&model);
        let seed = group["picture_seed"].as_u64().unwrap();
        let features = |index: u64| {
            let picture = picture(seed, index, &checkpoint["picture_shape"]);
            model.encode_images(&picture, &ForwardContext::inference()).unwrap()
        };
        for case in some(group["cases"].as_array().unwrap()) {
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
                    assert!(error < bound, "{name}, {case}: score {}, off by {error:e}", caption.score);
                }
            };
            let picture_features = features(picture);
            let generated = model.generate(&picture_features, prompt.as_deref(), &config).unwrap();
            agree(&generated);
            if let Some(draft) = &draft {
                let speculative = speculative(&model, &picture_features, prompt.as_deref(), &config, draft);
                assert_eq!(speculative, generated, "{name}, {case} with a draft");
            }
            let batch = Tensor::cat(&[&features(picture + 1), &picture_features], 0).unwrap();
            let both = model.generate(&batch, prompt.as_deref(), &config).unwrap();
            agree(&both[config.num_return_sequences..]);
            cases += 1;
        }
    }
    assert!(cases >= if device().is_cpu() { 200 } else { 5 }, "{cases}");
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
