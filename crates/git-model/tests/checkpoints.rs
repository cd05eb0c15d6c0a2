//! Checkpoints open in every layout of their files, and damaged or wrong files are errors that name the problem.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::error::Error as _;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{Checkpoint as Source, Golden, fixture, fixture_json, max_error};
use git_model::{CaptionCheckpoint as _, CaptionModel as _, Checkpoint, GitForCausalLm};
use serde_json::json;
use train_ops::{ForwardContext, FrozenBuilder};

/// The error with its cause.
fn refusal(dir: &Path) -> String {
    match Checkpoint::open(dir) {
        Ok(_) => panic!("the checkpoint was accepted"),
        Err(error) => match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// A good checkpoint in a folder, and its tensors.
fn good(case: &str) -> (tempfile::TempDir, HashMap<String, Tensor>) {
    let source = Golden::load(case).checkpoint();
    let dir = tempfile::tempdir().unwrap();
    source.write(dir.path());
    (dir, source.tensors())
}

fn save(dir: &Path, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, dir.join("model.safetensors")).unwrap();
}

#[test]
fn shards_hold_the_same_model_as_one_file() {
    let (dir, tensors) = good("tiny");
    let one = Checkpoint::open(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut weight_map = serde_json::Map::new();
    let mut shards = [HashMap::new(), HashMap::new()];
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        weight_map.insert(name.clone(), format!("model-{}.safetensors", index % 2).into());
        shards[index % 2].insert(name.clone(), tensor.clone());
    }
    for (index, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, dir.path().join(format!("model-{index}.safetensors"))).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    let many = Checkpoint::open(dir.path()).unwrap();
    for (name, tensor) in &tensors {
        let read = many.tensors().tensor(name, tensor.dtype(), &Device::Cpu).unwrap();
        let same = one.tensors().tensor(name, tensor.dtype(), &Device::Cpu).unwrap();
        assert_eq!(max_error(&read, &same), 0.0, "{name}");
    }
    // An index that lists a tensor in the wrong shard.
    let elsewhere = shards[1].keys().next().unwrap();
    weight_map.insert(elsewhere.clone(), "model-0.safetensors".into());
    std::fs::write(index, json!({"weight_map": weight_map}).to_string()).unwrap();
    assert!(refusal(dir.path()).contains("where the index says it is"));
}

/// A folder with the configuration of the golden checkpoint `micro` and the named fixtures.
fn micro(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = Golden::load("micro").checkpoint().config().to_string();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    for (from, to) in files {
        std::fs::copy(fixture(from), dir.path().join(to)).unwrap();
    }
    dir
}

const SHARDS: [(&str, &str); 3] = [
    ("golden_micro_shards/pytorch_model.bin.index.json", "pytorch_model.bin.index.json"),
    ("golden_micro_shards/pytorch_model-00001-of-00002.bin", "pytorch_model-00001-of-00002.bin"),
    ("golden_micro_shards/pytorch_model-00002-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
];

#[test]
fn a_pickled_checkpoint_of_any_layout_gives_the_loss_of_transformers() {
    let golden = Golden::load("micro");
    for files in [
        &[("golden_micro.bin", "pytorch_model.bin")] as &[_],
        &[("golden_micro_legacy.bin", "pytorch_model.bin")],
        &SHARDS,
    ] {
        let dir = micro(files);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let model = GitForCausalLm::load(&checkpoint, &mut FrozenBuilder).unwrap();
        let ctx = ForwardContext::inference();
        let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
        let ids = golden.tensor("input_ids").to_dtype(candle_core::DType::U32).unwrap();
        let labels: Vec<Vec<i64>> = golden.tensor("labels").to_vec2().unwrap();
        let (loss, targets) = model.loss(&features, &ids, &labels, &ctx).unwrap();
        let (loss, expected) = (
            f64::from(loss.to_scalar::<f32>().unwrap()) / targets as f64,
            golden.facts["loss"].as_f64().unwrap(),
        );
        assert!((loss - expected).abs() < 1e-5 * expected, "{files:?}: {loss}, expected {expected}");
    }
}

#[test]
fn a_shard_that_is_not_there_is_named() {
    let dir = micro(&SHARDS[..2]);
    let message = refusal(dir.path());
    assert!(message.contains("pytorch_model-00002-of-00002.bin is not there"), "{message}");
}

#[test]
fn git_lfs_pointers_say_what_to_run() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 706603642\n";
    for name in ["model.safetensors", "pytorch_model.bin", "config.json"] {
        let dir = micro(&[]);
        std::fs::write(dir.path().join(name), pointer).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("git lfs pull") && message.contains(name), "{message}");
    }
}

#[test]
fn a_part_that_all_names_have_is_named_as_such() {
    let (dir, tensors) = good("tiny");
    for part in ["module.", "_orig_mod.", "model."] {
        let wrapped =
            tensors.iter().map(|(name, tensor)| (format!("{part}{name}"), tensor.clone())).collect();
        save(dir.path(), &wrapped);
        let message = refusal(dir.path());
        assert!(message.contains(&format!("all names have the part `{part}`")), "{message}");
        assert!(!message.contains("missing"), "{message}");
    }
}

#[test]
fn the_types_of_the_file_are_known_by_name() {
    let (dir, mut tensors) = good("tiny");
    let names: Vec<String> = tensors.keys().cloned().collect();
    for (index, name) in names.iter().enumerate() {
        let dtype = [DType::F32, DType::F16, DType::BF16][index % 3];
        tensors.insert(name.clone(), tensors[name].to_dtype(dtype).unwrap());
    }
    save(dir.path(), &tensors);
    let dtypes = Checkpoint::open(dir.path()).unwrap().dtypes().unwrap();
    assert_eq!(dtypes.len(), tensors.len());
    assert!(dtypes.iter().all(|(name, dtype)| tensors[name].dtype() == *dtype), "{dtypes:?}");
}

#[test]
fn the_begin_and_end_tokens_of_generation_config_count() {
    let (dir, _) = good("tiny");
    let tokens = |json: &str| {
        std::fs::write(dir.path().join("generation_config.json"), json).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (checkpoint.config().bos_token_id, checkpoint.config().eos_token_id.clone())
    };
    let own = {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (checkpoint.config().bos_token_id, checkpoint.config().eos_token_id.clone())
    };
    // As with transformers 5.23: where the file names no end token, there is none, and config.json does not count.
    assert_eq!(tokens("{}"), (own.0, vec![]));
    assert_eq!(tokens(r#"{"bos_token_id": 7, "eos_token_id": [3, 9]}"#), (7, vec![3, 9]));
    assert_eq!(tokens(r#"{"eos_token_id": 5}"#), (own.0, vec![5]));
    assert_eq!(tokens(r#"{"eos_token_id": null}"#), (own.0, vec![]));
    // As transformers, which looks into config.json where there is no such file, and not where there is one.
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_beams"] = 3.into();
    std::fs::write(path, config.to_string()).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().generation().num_beams, None);
    std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().generation().num_beams, Some(3));
    for (json, words) in [
        (r#"{"eos_token_id": "[SEP]"}"#, r#"eos_token_id is "[SEP]""#),
        (r#"{"num_beams": -1}"#, "num_beams is -1"),
        (r#"{"early_stopping": "soon"}"#, "early_stopping is"),
        ("{", "cannot be parsed"),
    ] {
        std::fs::write(dir.path().join("generation_config.json"), json).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains(words) && message.contains("generation_config.json"), "{message}");
    }
}

#[test]
fn the_older_spelling_of_temporal_embeddings_is_read() {
    let (dir, tensors) = good("video");
    let respelled =
        tensors.into_iter().map(|(name, tensor)| (name.replace("temporal", "temperal"), tensor)).collect();
    save(dir.path(), &respelled);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    GitForCausalLm::load(&checkpoint, &mut FrozenBuilder).unwrap();
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_all_listed() {
    let (dir, mut tensors) = good("tiny");
    tensors.remove("git.embeddings.LayerNorm.bias").unwrap();
    let cpu = &Device::Cpu;
    tensors.insert("output.bias".into(), Tensor::zeros(7, candle_core::DType::F32, cpu).unwrap());
    tensors.insert("surplus.weight".into(), Tensor::zeros(1, candle_core::DType::F32, cpu).unwrap());
    save(dir.path(), &tensors);
    let message = refusal(dir.path());
    for words in [
        "git.embeddings.LayerNorm.bias is missing",
        "output.bias has shape [7], expected [128]",
        "surplus.weight is unexpected",
        dir.path().to_str().unwrap(),
    ] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_truncated_file_is_damaged() {
    let (dir, _) = good("tiny");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 5, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("model.safetensors") && message.contains("damaged"), "{length}: {message}");
    }
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("has no config.json"));
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "git"}"#).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors"));
}

#[test]
fn a_configuration_of_another_model_or_with_another_activation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (config, words) in [
        (r#"{"model_type": "blip"}"#, r#"model_type is "blip""#),
        (r#"{"model_type": "git", "hidden_act": "relu"}"#, r#"activation "relu""#),
        (r#"{"model_type": "git", "num_attention_heads": 7}"#, "num_attention_heads is 7"),
        (
            r#"{"model_type": "git", "eos_token_id": "[SEP]"}"#,
            "eos_token_id must be a token id, a list of them, or null",
        ),
        (r#"{"model_type": "git", "hidden_size": "#, "cannot be parsed"),
    ] {
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains(words) && message.contains("config.json"), "{config}: {message}");
    }
}

#[test]
fn a_tied_config_over_two_different_heads_is_not_tied() {
    let source = Source::new(&fixture_json("golden_tied.json")["checkpoint"]);
    let dir = tempfile::tempdir().unwrap();
    source.write(dir.path());
    assert!(Checkpoint::open(dir.path()).unwrap().tensors().tied());
    let mut tensors = source.tensors();
    let words = tensors["git.embeddings.word_embeddings.weight"].clone();
    tensors.insert("output.weight".into(), words.clone());
    save(dir.path(), &tensors);
    assert!(Checkpoint::open(dir.path()).unwrap().tensors().tied(), "the two matrices are equal");
    tensors.insert("output.weight".into(), (words * 2.0).unwrap());
    save(dir.path(), &tensors);
    assert!(!Checkpoint::open(dir.path()).unwrap().tensors().tied());
}
