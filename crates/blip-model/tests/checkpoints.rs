//! Checkpoints open in every layout of their names, and wrong files are errors that name the problem.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;

use blip_model::{CaptionCheckpoint as _, Checkpoint};
use candle_core::{DType, Device, Tensor};
use common::{Golden, max_error};

const WORDS: &str = "text_decoder.bert.embeddings.word_embeddings.weight";
const HEAD: &str = "text_decoder.cls.predictions.decoder.weight";
const BIAS: &str = "text_decoder.cls.predictions.bias";
const HEAD_BIAS: &str = "text_decoder.cls.predictions.decoder.bias";

fn good() -> (tempfile::TempDir, HashMap<String, Tensor>) {
    let source = Golden::load("tied").source();
    let dir = tempfile::tempdir().unwrap();
    source.write(dir.path());
    (dir, source.tensors())
}

fn open(dir: &Path, tensors: &HashMap<String, Tensor>) -> blip_model::Result<Checkpoint> {
    candle_core::safetensors::save(tensors, dir.join("model.safetensors")).unwrap();
    Checkpoint::open(dir)
}

/// BLIP's first checkpoints have both names of the tied weight and bias, and the positions.
#[test]
fn tied_tensors_may_have_either_name_or_both() {
    let (dir, tensors) = good();
    let (words, bias) = (tensors[WORDS].clone(), tensors[BIAS].clone());
    let positions = Tensor::arange(0i64, 64, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    for (without, with) in [
        (vec![], vec![(HEAD, &words), (HEAD_BIAS, &bias)]),
        (vec![], vec![("text_decoder.bert.embeddings.position_ids", &positions)]),
        (vec![WORDS, BIAS], vec![(HEAD, &words), (HEAD_BIAS, &bias)]),
    ] {
        let mut stored = tensors.clone();
        without.iter().for_each(|name| drop(stored.remove(*name)));
        stored.extend(with.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())));
        let checkpoint = open(dir.path(), &stored).unwrap();
        assert!(checkpoint.tensors().tied());
        for (name, expected) in [(WORDS, &words), (BIAS, &bias)] {
            let read = checkpoint.tensors().tensor(name, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(max_error(&read, expected), 0.0, "{name}");
        }
    }
}

#[test]
fn all_tensors_that_do_not_fit_are_listed() {
    let (dir, mut tensors) = good();
    let bias = (&tensors[BIAS] + 1.0).unwrap();
    tensors.insert(HEAD_BIAS.to_owned(), bias);
    tensors.remove("vision_model.embeddings.patch_embedding.bias");
    tensors.insert("text_encoder.pooler".to_owned(), Tensor::new(1f32, &Device::Cpu).unwrap());
    let Err(error) = open(dir.path(), &tensors) else { panic!("the checkpoint was accepted") };
    let message = error.to_string();
    for words in [
        format!("{HEAD_BIAS} and {BIAS} differ"),
        "vision_model.embeddings.patch_embedding.bias is missing".to_owned(),
        "text_encoder.pooler is unexpected".to_owned(),
    ] {
        assert!(message.contains(&words), "{words}: {message}");
    }
}

#[test]
fn decoding_defaults_are_those_of_the_text_decoder() {
    let (dir, tensors) = good();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"num_beams": 7, "eos_token_id": 2}"#)
        .unwrap();
    let mut config = Golden::load("tied").source().config().clone();
    config["text_config"]["num_beams"] = 3.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = open(dir.path(), &tensors).unwrap();
    let generation = checkpoint.generation();
    assert_eq!(generation.num_beams, Some(3));
    // [SEP] ends captions, whatever `eos_token_id` says.
    assert_eq!(generation.eos_token_id, Some(vec![102]));
    assert_eq!(checkpoint.tokens().end_tokens, [102]);
}
