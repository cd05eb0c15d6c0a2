//! Captions against transformers' `generate` without its cache.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Checkpoint as Golden, fixture_json};
use git_model::{Checkpoint, EarlyStopping, GenerationConfig, GitForCausalLm};
use serde_json::Value;
use train_ops::{FrozenBuilder, Pass};

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
            "eos_token_id" => config.eos_token_id = Some(ids(value)),
            other => panic!("the fixture has an option that this test does not know: {other}"),
        }
    }
    config
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn captions_are_those_of_transformers_one_by_one_and_in_batches() {
    let golden = fixture_json("golden_generation.json");
    for (name, checkpoint) in golden["checkpoints"].as_object().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let source = Golden::new(checkpoint);
        source.write(dir.path());
        let model = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
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
                assert_eq!(generated[0], ids(&caption["ids"]), "{case}, picture {picture}");
                all_features.push(features);
            }
            if captions.iter().all(|caption| caption.get("prompt").is_none()) {
                let batch = candle_core::Tensor::cat(&all_features, 0).unwrap();
                let generated = model.generate(&batch, prompt.as_deref(), &config).unwrap();
                for (generated, caption) in generated.iter().zip(captions) {
                    assert_eq!(
                        *generated,
                        ids(&caption["ids"]),
                        "{case}, picture {} in a batch",
                        caption["picture"]
                    );
                }
            }
        }
    }
}
