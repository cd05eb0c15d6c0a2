//! Files of adapters that are refused, with messages that say what to do, and interrupted saves.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{Net, adapted, config, ids, rewrite_tensors, values};
use peft_lora::{Error, LoraBuilder, LoraConfig};

/// The error of opening a folder with a saved adapter, after `damage` has changed the folder.
fn opening(damage: impl Fn(&Path)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    adapted(config(["query", "value"])).1.save(dir.path()).unwrap();
    damage(dir.path());

    // Loading it into an existing adapter fails alike, and changes nothing.
    let (net, adapter) = adapted(config(["query", "value"]));
    let before = values(&net.infer(&ids()));
    let error = adapter.load_weights(dir.path()).unwrap_err();
    assert_eq!(values(&net.infer(&ids())), before);

    let opened = LoraBuilder::from_pretrained(dir.path()).and_then(|mut builder| {
        Net::build(&mut builder, DType::F32).unwrap();
        builder.finish()
    });
    assert_eq!(opened.unwrap_err().to_string(), error.to_string());
    error
}

const A: &str = "base_model.model.blocks.0.query.lora_A.weight";

#[test]
fn missing_and_damaged_files_are_named() {
    let error = opening(|dir| fs::remove_file(dir.join("adapter_config.json")).unwrap());
    assert!(matches!(&error, Error::Read { path, .. } if path.ends_with("adapter_config.json")), "{error}");

    let error = opening(|dir| fs::remove_file(dir.join("adapter_model.safetensors")).unwrap());
    assert!(
        matches!(&error, Error::Read { path, .. } if path.ends_with("adapter_model.safetensors")),
        "{error}"
    );

    let error = opening(|dir| {
        fs::rename(dir.join("adapter_model.safetensors"), dir.join("adapter_model.bin")).unwrap();
    });
    assert!(
        matches!(error, Error::TorchFile(_)) && error.to_string().contains("adapter_model.bin"),
        "{error}"
    );

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5349\n";
    for name in ["adapter_model.safetensors", "adapter_model.bin"] {
        let error = opening(|dir| {
            fs::remove_file(dir.join("adapter_model.safetensors")).unwrap();
            fs::write(dir.join(name), pointer).unwrap();
        });
        assert!(error.to_string().contains("git lfs pull") && error.to_string().contains(name), "{error}");
    }

    let error = opening(|dir| fs::write(dir.join("adapter_config.json"), "{\"r\": 4,\n").unwrap());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, Error::Config { .. }) && cause.contains("line 2"), "{error}: {cause}");
}

#[test]
fn a_weight_file_cut_at_any_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    adapted(config(["stem"])).1.save(dir.path()).unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    LoraBuilder::from_pretrained(dir.path()).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = LoraBuilder::from_pretrained(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Safetensors { .. }), "{length}: {error}");
    }
}

#[test]
fn all_tensors_that_do_not_fit_are_listed() {
    let error = opening(|dir| {
        rewrite_tensors(dir, |tensors| {
            let a = tensors.remove(A).unwrap();
            tensors.insert("base_model.model.blocks.0.query.lora_A.default.weight".into(), a);
            tensors.remove("base_model.model.blocks.2.value.lora_B.weight").unwrap();
            let wide = Tensor::zeros((4, 9), DType::F32, &Device::Cpu).unwrap();
            tensors.insert("base_model.model.blocks.1.query.lora_A.weight".into(), wide);
        });
    });
    let message = error.to_string();
    let (_, list) = message.split_once("configuration:\n").unwrap();
    let expected = "  missing base_model.model.blocks.0.query.lora_A.weight
  missing base_model.model.blocks.2.value.lora_B.weight
  unexpected base_model.model.blocks.0.query.lora_A.default.weight
  misshapen base_model.model.blocks.1.query.lora_A.weight: expected [4, 8], got [4, 9]";
    assert_eq!(list, expected);

    let error = opening(|dir| rewrite_tensors(dir, HashMap::clear));
    let Error::Tensors { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 12);
}

/// The error of opening an adapter whose tensors are renamed.
fn renamed(rename: impl Fn(&str) -> String) -> Error {
    opening(|dir| {
        rewrite_tensors(dir, |tensors| {
            *tensors = tensors.drain().map(|(name, tensor)| (rename(&name), tensor)).collect();
        });
    })
}

#[test]
fn a_name_part_that_all_tensors_have_or_lack_is_reported_as_one() {
    for part in ["module.", "_orig_mod."] {
        let error = renamed(|name| format!("{part}{name}")).to_string();
        assert!(error.contains(&format!("all names have the part `{part}`")), "{error}");
        let error = renamed(|name| name.replace("base_model.model.", &format!("base_model.model.{part}")));
        assert!(error.to_string().contains(&format!("all names have the part `{part}`")), "{error}");
    }
    let error = renamed(|name| name.replace("base_model.model.", "")).to_string();
    assert!(error.contains("all names lack `base_model.model.`"), "{error}");
}

#[test]
fn a_file_with_several_adapters_is_refused_with_their_names() {
    let error = renamed(|name| {
        let adapter = if name.contains("blocks.0") { "first" } else { "second" };
        name.replace(".weight", &format!(".{adapter}.weight"))
    });
    assert!(error.to_string().contains("holds several adapters (first, second)"), "{error}");
}

#[test]
fn tensors_that_are_not_finite_are_refused() {
    let replace = |value: Tensor| {
        opening(move |dir| {
            rewrite_tensors(dir, |tensors| {
                tensors.insert(A.into(), value.clone());
            })
        })
    };
    let nan = Tensor::full(f32::NAN, (4, 8), &Device::Cpu).unwrap();
    assert_eq!(replace(nan).to_string(), format!("cannot load: {A} holds NaN or infinite values"));
    let integers = Tensor::zeros((4, 8), DType::I64, &Device::Cpu).unwrap();
    assert!(matches!(replace(integers), Error::DType { got: DType::I64, .. }));
}

#[test]
fn adapters_with_nan_are_not_written_and_write_errors_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (_, adapter) = adapted(config(["query"]));
    let var = &adapter.parameters()[A];
    var.set(&Tensor::full(f32::NAN, (4, 8), &Device::Cpu).unwrap()).unwrap();
    let error = adapter.save(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot save: {A} holds NaN or infinite values"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (_, adapter) = adapted(config(["query"]));
    let error = adapter.save(file.join("adapter")).unwrap_err();
    assert!(matches!(&error, Error::Write { .. }), "{error}");
}

#[test]
fn saving_again_replaces_both_files_and_leaves_no_others() {
    let dir = tempfile::tempdir().unwrap();
    adapted(config(["query"])).1.save(dir.path()).unwrap();
    let (net, adapter) = adapted(LoraConfig { lora_alpha: 9.0, ..config(["value"]) });
    adapter.save(dir.path()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let mut builder = LoraBuilder::from_pretrained(dir.path()).unwrap();
    let opened = Net::build(&mut builder, DType::F32).unwrap();
    builder.finish().unwrap();
    assert_eq!(values(&opened.infer(&ids())), values(&net.infer(&ids())));
}

/// Weights of one run beside the configuration of another could be opened, but with the wrong scale.
#[test]
fn an_interrupted_save_leaves_no_configuration_beside_other_weights() {
    let dir = tempfile::tempdir().unwrap();
    adapted(config(["query"])).1.save(dir.path()).unwrap();
    let weights = dir.path().join("adapter_model.safetensors");
    // The new weights cannot replace a folder that is not empty.
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    fs::write(weights.join("file"), "").unwrap();
    let (_, adapter) = adapted(LoraConfig { lora_alpha: 9.0, ..config(["query"]) });
    let error = adapter.save(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Write { path, .. } if *path == weights), "{error}");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["adapter_model.safetensors"], "neither the old configuration nor the new one");
}

#[test]
fn weights_of_another_scale_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    adapted(LoraConfig { alpha_pattern: vec![("blocks.1.query".into(), 1.0)], ..config(["query"]) })
        .1
        .save(dir.path())
        .unwrap();
    let (_, adapter) = adapted(config(["query"]));
    let error = adapter.load_weights(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("the scale of blocks.1.query is 0.25 in the file and 1.5 in this adapter"),
        "{error}"
    );
}
