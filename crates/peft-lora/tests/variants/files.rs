//! Files that PEFT saved, and saved files that open again.

use std::path::PathBuf;

use candle_core::{DType, Device};
use peft_lora::{InitLoraWeights, LoraBuilder};
use train_ops::ForwardContext;

use crate::common::{Net, adapted, difference, fixture, ids, loss, tensors, training, values};
use crate::{change, norm, opened, table, weights_of};

const CASES: [&str; 15] = [
    "dora",
    "dora_rslora",
    "lora_bias",
    "bias_all",
    "bias_lora_only",
    "dora_bias_lora_only",
    "modules_to_save",
    "pissa",
    "olora",
    "olora_rslora",
    // Converted to plain LoRA.
    "pissa_converted",
    "pissa_niter_16_converted",
    "olora_converted",
    "olora_rslora_converted",
    "first",
];

#[test]
fn adapters_saved_by_peft_give_its_outputs_gradients_and_merged_weights() {
    let expected = tensors("variants.safetensors");
    for name in CASES {
        let (net, adapter) = opened(name);
        let of_peft = |key: &str| {
            let name = if name == "first" { "active.first" } else { name.trim_end_matches("_converted") };
            let key = if key == "output" && name == "active.first" {
                name.to_owned()
            } else {
                format!("{name}.{key}")
            };
            expected.get(&key)
        };
        let output = net.infer(&ids());
        let error = difference(&output, of_peft("output").unwrap());
        assert!(error < 2e-5, "{name}: {error:e}");
        let trained = net.forward(&ids(), &training(0));
        let error = difference(&trained, of_peft("output").unwrap());
        assert!(error < 2e-5, "{name} in a training pass: {error:e}");

        let merged = weights_of(&adapter);
        for (weight, merged) in &merged {
            let Some(expected) = of_peft(&format!("merged.{weight}")) else { continue };
            let error = difference(merged, expected);
            assert!(error < 2e-5, "{name}, merged {weight}: {error:e}");
        }
        let merged_by_peft =
            expected.keys().filter(|key| key.starts_with(&format!("{name}.merged."))).count();
        assert!(merged_by_peft == 0 || merged_by_peft == merged.len(), "{name}: {:?}", merged.keys());
        adapter.merge().unwrap();
        let error = difference(&net.infer(&ids()), &output);
        assert!(error < 2e-6, "{name} merged: {error:e}");
        adapter.unmerge().unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&output), "{name}");

        if name.ends_with("_converted") || name == "first" {
            continue;
        }
        let gradients = loss(&trained).backward().unwrap();
        let parameters = adapter.parameters();
        for (parameter, var) in &parameters {
            let expected =
                of_peft(&format!("gradient.{parameter}")).unwrap_or_else(|| panic!("{name}: {parameter}"));
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name}: none for {parameter}"));
            let error = norm(&(gradient - expected).unwrap()) / norm(expected);
            assert!(error < 1e-4, "{name}, {parameter}: {error:e}");
        }
        let of_peft = expected.keys().filter(|key| key.starts_with(&format!("{name}.gradient."))).count();
        assert_eq!(of_peft, parameters.len(), "{name}");
    }
}

/// Inside PEFT's model, names have the adapter's name too.
#[test]
fn files_with_the_names_inside_a_model_open() {
    let of_model = |name: &str| match name.strip_suffix("lora_magnitude_vector") {
        Some(layer) => format!("{layer}lora_magnitude_vector.default.weight"),
        None => {
            let (layer, end) = name.rsplit_once('.').unwrap();
            format!("{layer}.default.{end}")
        }
    };
    for name in ["dora", "lora_bias"] {
        let (source, dir) = (fixture("variants").join(name), tempfile::tempdir().unwrap());
        std::fs::copy(source.join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
        let tensors =
            candle_core::safetensors::load(source.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
        let renamed: std::collections::HashMap<_, _> =
            tensors.into_iter().map(|(name, tensor)| (of_model(&name), tensor)).collect();
        candle_core::safetensors::save(&renamed, dir.path().join("adapter_model.safetensors")).unwrap();
        let mut builder = LoraBuilder::from_pretrained(dir.path()).unwrap();
        let net = Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&opened(name).0.infer(&ids())), "{name}");
    }
}

/// Set `PEFT_LORA_KEEP` to a folder to keep the files for `fixtures/check_in_peft.py`, which opens them with PEFT.
#[test]
fn a_saved_adapter_opens_with_the_same_outputs() {
    let kept = std::env::var_os("PEFT_LORA_KEEP");
    let temporary = tempfile::tempdir().unwrap();
    let root: PathBuf = kept.map_or_else(|| temporary.path().to_owned(), Into::into);
    for (name, config) in table() {
        let (net, adapter) = adapted(config.clone());
        change(&adapter);
        let (output, dir) = (net.infer(&ids()), root.join(name));
        adapter.save(&dir).unwrap();
        output.save_safetensors("output", dir.join("output.safetensors")).unwrap();

        let mut builder = LoraBuilder::from_pretrained(&dir).unwrap();
        let opened = Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap();
        let error = difference(&opened.infer(&ids()), &output);
        assert!(
            error < if config.init_lora_weights == InitLoraWeights::Random { 1e-9 } else { 2e-6 },
            "{name}: {error:e}"
        );

        // Into an adapter of the same configuration: the same bits, PiSSA and OLoRA included.
        let (net, adapter) = adapted(config);
        let [before, again, after] = std::array::from_fn(|_| ForwardContext::inference());
        net.forward(&ids(), &before);
        net.forward(&ids(), &again);
        assert!(again.has_values_of(&before), "{name}");
        adapter.load_weights(&dir).unwrap();
        assert_eq!(values(&net.forward(&ids(), &after)), values(&output), "{name}");
        // PiSSA's residual is in other memory, which a recorded pass would not read.
        assert!(!after.has_values_of(&before), "{name}: the weights are those from before");
    }
}

#[test]
fn the_report_counts_what_peft_counts() {
    // PEFT's print_trainable_parameters; the base has 1,397 parameters.
    for (name, summary) in COUNTS {
        assert_eq!(opened(name).1.report().summary(), summary, "{name}");
    }
}

const COUNTS: [(&str, &str); 5] = [
    ("dora", "972 of 2,369 (41.0300 %)"),
    ("lora_bias", "552 of 1,949 (28.3222 %)"),
    ("bias_all", "385 of 1,685 (22.8487 %)"),
    ("bias_lora_only", "336 of 1,685 (19.9407 %)"),
    ("modules_to_save", "501 of 1,898 (26.3962 %)"),
];
