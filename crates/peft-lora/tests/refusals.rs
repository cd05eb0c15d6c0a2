//! Inputs that are refused, with messages that say what to do.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use common::{Net, adapted, config, ids, rewrite_tensors, values};
use peft_lora::{Error, LoraBuilder, LoraConfig, Modules};

fn audit(config: LoraConfig) -> Error {
    let mut builder = LoraBuilder::new(config).unwrap().output_layer("head");
    Net::build(&mut builder, DType::F32).unwrap();
    builder.finish().unwrap_err()
}

#[test]
fn names_that_match_nothing_are_listed_with_what_the_model_has() {
    let error = audit(LoraConfig {
        exclude_modules: Some(["blocks.3.key"].into()),
        ..config(["querry", "value", "mlp.fc3"])
    });
    let Error::Unmatched(unmatched) = &error else { panic!("{error}") };
    let found: Vec<_> = unmatched.iter().map(|entry| (entry.option, entry.pattern.as_str())).collect();
    assert_eq!(
        found,
        [("target_modules", "querry"), ("target_modules", "mlp.fc3"), ("exclude_modules", "blocks.3.key")]
    );
    assert_eq!(unmatched[0].candidates[0], "query");
    assert_eq!(unmatched[1].candidates[..2], ["mlp.fc1", "mlp.fc2"]);
    assert_eq!(unmatched[2].candidates[0], "blocks.0.key");
    let first_line = error.to_string().lines().next().unwrap().to_owned();
    assert_eq!(
        first_line,
        "target_modules: querry matches no linear layer; the model has query, key, head, stem, fc1, fc2, value"
    );
}

#[test]
fn unmatched_entries_of_all_options_are_listed() {
    let cases = [
        (config(r"blocks\.\d\.q"), r"target_modules: blocks\.\d\.q matches no linear layer"),
        (
            LoraConfig { exclude_modules: Some("key".into()), ..config(["query"]) },
            "exclude_modules: key matches no module or parameter; the model has key, ",
        ),
        (
            LoraConfig { rank_pattern: vec![("query".into(), 2), ("value".into(), 3)], ..config(["query"]) },
            "rank_pattern: value matches no adapted layer",
        ),
        (
            LoraConfig { alpha_pattern: vec![("blocks.7.query".into(), 2.0)], ..config(["query"]) },
            "alpha_pattern: blocks.7.query matches no adapted layer; the model has blocks.0.query",
        ),
        (
            LoraConfig { layers_to_transform: vec![1], ..config(["query"]) },
            "1 matches no targeted layer (of a list at the model's root only if layers_pattern names it)",
        ),
        (
            LoraConfig {
                layers_to_transform: vec![1, 3, 9],
                layers_pattern: vec!["blocks".into()],
                ..config(["query"])
            },
            "layers_to_transform: 3 matches no targeted layer; the model has 0, 1, 2\nlayers_to_transform: 9",
        ),
        (
            LoraConfig {
                layers_to_transform: vec![1],
                layers_pattern: vec!["blocks".into(), "layers".into()],
                ..config(["query"])
            },
            "layers_pattern: layers matches no targeted layer",
        ),
    ];
    for (config, expected) in cases {
        let error = audit(config).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut builder = LoraBuilder::new(config("all-linear")).unwrap().output_layer("lm_head");
    Net::build(&mut builder, DType::F32).unwrap();
    let error = builder.finish().unwrap_err().to_string();
    assert!(
        error.starts_with("output_layer: lm_head matches no linear layer; the model has head"),
        "{error}"
    );
}

#[test]
fn targets_other_than_linear_layers_are_refused() {
    for (targets, named) in [
        (Modules::from(["query", "embed"]), "embed"),
        (Modules::from(["query", "embed.weight"]), "embed.weight"),
        (Modules::from(["query", "mlp"]), "blocks.0.mlp, blocks.1.mlp, blocks.2.mlp"),
        (Modules::from(r"blocks\.1.*"), "blocks.1, blocks.1.mlp"),
    ] {
        let error = audit(config(targets));
        assert!(matches!(error, Error::NotLinear(_)), "{error}");
        assert!(
            error.to_string().contains(&format!("that cannot be adapted: {named}; name the layers")),
            "{error}"
        );
    }
}

/// Follows the advice in the error message of the test above.
#[test]
fn targets_other_than_linear_layers_can_be_excluded() {
    for (targets, excluded, layers) in [
        (Modules::from(["query", "embed"]), Modules::from(["embed"]), 3),
        (["query", "embed.weight"].into(), ["embed.weight"].into(), 3),
        (["query", "mlp"].into(), ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"].into(), 3),
        (r"blocks\.1.*".into(), ["blocks.1", "blocks.1.mlp"].into(), 5),
        (r"blocks\.1.*".into(), r"blocks\.1|.*mlp".into(), 5),
    ] {
        let (_, adapter) = adapted(LoraConfig { exclude_modules: Some(excluded), ..config(targets) });
        assert_eq!(adapter.layers().count(), layers, "{:?}", adapter.config());
    }
}

/// As in PEFT, the tensors of the files say which layers there are.
#[test]
fn unmatched_entries_in_a_saved_configuration_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (net, adapter) = adapted(config(["query", "value"]));
    adapter.save(dir.path()).unwrap();
    let idle = LoraConfig {
        exclude_modules: Some(["lm_head"].into()),
        rank_pattern: vec![("k_proj".into(), 2)],
        alpha_pattern: vec![("k_proj".into(), 2.0)],
        ..config(["query", "value", "q_proj"])
    };
    let path = dir.path().join("adapter_config.json");
    fs::write(&path, serde_json::to_string(&idle).unwrap()).unwrap();
    let mut builder = LoraBuilder::from_pretrained(dir.path()).unwrap();
    let opened = Net::build(&mut builder, DType::F32).unwrap();
    assert_eq!(builder.finish().unwrap().config(), &idle);
    assert_eq!(values(&opened.infer(&ids())), values(&net.infer(&ids())));

    // Weights without a layer are not an adapter, and neither is a file without weights.
    fs::write(&path, serde_json::to_string(&config(["q_proj"])).unwrap()).unwrap();
    let opening = || {
        let mut builder = LoraBuilder::from_pretrained(dir.path()).unwrap();
        Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap_err()
    };
    let error = opening();
    assert!(matches!(&error, Error::Tensors { unexpected, .. } if unexpected.len() == 12), "{error}");
    rewrite_tensors(dir.path(), HashMap::clear);
    let error = opening();
    assert!(matches!(error, Error::NothingSelected), "{error}");
}

#[test]
fn targets_that_are_all_excluded_are_refused() {
    let error = audit(LoraConfig { exclude_modules: Some(".*query".into()), ..config(["query"]) });
    assert!(matches!(error, Error::NothingSelected), "{error}");
}

#[test]
fn invalid_options_are_refused_before_a_model_is_built() {
    let regex = || config(".*");
    for (config, expected) in [
        (LoraConfig { r: 0, ..regex() }, "option r: a rank must be at least 1, got 0"),
        (
            LoraConfig { rank_pattern: vec![("key".into(), 2), ("query".into(), 0)], ..regex() },
            "option rank_pattern: query: a rank must be at least 1, got 0",
        ),
        (
            LoraConfig { lora_alpha: 0.0, ..regex() },
            "option lora_alpha: must be a number other than 0, or the adapter has no effect; got 0",
        ),
        (LoraConfig { lora_alpha: f64::NAN, ..regex() }, "option lora_alpha"),
        (
            LoraConfig {
                alpha_pattern: vec![("key".into(), 2.0), ("query".into(), f64::INFINITY)],
                ..regex()
            },
            "option alpha_pattern: query: must be a number other than 0, or the layers' adapters have no effect; got inf",
        ),
        (LoraConfig { lora_dropout: 1.0, ..regex() }, "option lora_dropout: must be in [0, 1), got 1"),
        (LoraConfig { lora_dropout: -0.1, ..regex() }, "option lora_dropout: must be in [0, 1), got -0.1"),
        (config(Modules::default()), "option target_modules: is empty; list names"),
        (config(""), "option target_modules: is empty"),
        (config("que(ry"), "option target_modules: `que(ry` is not a regular expression"),
        (config(["query", ""]), "option target_modules: holds an empty name"),
        (LoraConfig { exclude_modules: Some("[".into()), ..regex() }, "option exclude_modules: `[` is not"),
        (LoraConfig { rank_pattern: vec![("*".into(), 2)], ..regex() }, "option rank_pattern: `*` is not"),
        (
            LoraConfig { rank_pattern: vec![("a".into(), 2), ("a".into(), 3)], ..regex() },
            "option rank_pattern: the pattern a is given twice",
        ),
        (
            LoraConfig { layers_to_transform: vec![0], ..regex() },
            "option layers_to_transform: needs target_modules",
        ),
        (
            LoraConfig { layers_pattern: vec!["blocks".into()], ..config(["query"]) },
            "option layers_pattern: does nothing without layers_to_transform",
        ),
        (
            LoraConfig { layers_pattern: vec!["blocks".into()], ..regex() },
            "option layers_pattern: does nothing without layers_to_transform",
        ),
        (
            LoraConfig { task_type: Some("SEQ_CLS".into()), ..regex() },
            "option task_type: SEQ_CLS is not supported",
        ),
    ] {
        let error = LoraBuilder::new(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_pattern_that_takes_forever_is_an_error_and_not_a_hang() {
    let mut builder = LoraBuilder::new(config(r"(?=((a|aa)+)+$)\1b")).unwrap();
    let weight = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    let path = "a".repeat(100) + ".c";
    let error = train_ops::LayerBuilder::linear(&mut builder, &path, weight, None).unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains("LoRA option target_modules: ") && error.contains("cannot be matched"), "{error}");
}

#[test]
fn a_layer_built_twice_is_refused() {
    let mut builder = LoraBuilder::new(config(["layer"])).unwrap();
    let mut build = || {
        let weight = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        train_ops::LayerBuilder::linear(&mut builder, "layer", weight, None)
    };
    build().unwrap();
    let error = build().unwrap_err().to_string();
    assert!(error.starts_with("layer was built twice"), "{error}");
}

/// PEFT's default configuration with one option changed or added.
fn default_with(option: &str, value: &str) -> serde_json::Result<LoraConfig> {
    let defaults = fs::read_to_string(common::fixture("default_config.json")).unwrap();
    let others: Vec<_> = defaults.lines().filter(|line| !line.contains(&format!("\"{option}\""))).collect();
    serde_json::from_str(&others.join("\n").replacen('{', &format!("{{\n\"{option}\": {value},"), 1))
}

#[test]
fn options_of_peft_that_are_not_supported_are_named() {
    for (option, value) in [
        ("use_qalora", "true"),
        ("init_lora_weights", "\"pissa_niter_many\""),
        ("peft_type", "\"IA3\""),
        ("layer_replication", "[[0,2]]"),
        ("target_parameters", "[\"experts\"]"),
        ("trainable_token_indices", "[1,2]"),
        ("alora_invocation_tokens", "[5]"),
        ("kasa_config", "{\"beta\":0.1}"),
        ("an_option_of_the_future", "\"on\""),
    ] {
        let error = default_with(option, value).unwrap_err().to_string();
        assert!(error.contains("not supported") && error.contains(&format!("{option} = {value}")), "{error}");
    }
}

/// For these, PEFT changes the base's weights when it makes or opens an adapter.
#[test]
fn initialisations_that_change_the_base_are_refused_with_the_reason() {
    for kind in ["corda", "loftq", "lora_ga"] {
        let error = default_with("init_lora_weights", &format!("\"{kind}\"")).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("changed the weights of the base"), "{error}");
    }
}

#[test]
fn unknown_options_without_effect_are_ignored() {
    for (option, value) in [
        ("an_option_of_the_future", "null"),
        ("enable_lora", "false"),
        ("runtime_config", "{\"ephemeral_gpu_offload\": true}"),
        ("layers_pattern", "\"\""),
        ("layers_to_transform", "[]"),
        ("rank_pattern", "null"),
        ("exclude_modules", "null"),
        ("inference_mode", "true"),
        ("peft_version", "\"0.99.0\""),
        // Initialisations, and details of options that are not set.
        ("init_lora_weights", "\"eva\""),
        ("init_lora_weights", "\"orthogonal\""),
        ("init_lora_weights", "\"mica\""),
        ("eva_config", "{\"rho\": 2.0}"),
        ("corda_config", "{\"corda_method\": \"ipm\"}"),
        ("lora_ga_config", "{\"direction\": \"ArB2r\"}"),
        ("loftq_config", "{\"loftq_bits\": 4}"),
        ("qalora_group_size", "32"),
        ("fan_in_fan_out", "true"),
        ("ensure_weight_tying", "true"),
    ] {
        assert_eq!(default_with(option, value).unwrap(), LoraConfig::default(), "{option}");
    }
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    for (json, expected) in [
        (r#"{"r": -1}"#, "-1"),
        (r#"{"r": 8.5}"#, "8.5"),
        (r#"{"target_modules": 3}"#, "a list of names or one regular expression"),
        (r#"{"layers_to_transform": [0, -1]}"#, "one value or a list"),
        (r#"{"rank_pattern": ["query"]}"#, "an object of patterns and numbers"),
        (r#"{"rank_pattern": {"a": 1, "a": 2}}"#, "the pattern a is given twice"),
        (r#"{"lora_alpha": "big"}"#, "\"big\""),
    ] {
        let error = serde_json::from_str::<LoraConfig>(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}
