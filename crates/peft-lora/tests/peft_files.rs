//! Adapters saved by PEFT can be opened here and give PEFT's outputs, and the reverse.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use candle_core::DType;
use common::{Net, adapted, config, difference, fixture, ids, loss, tensors, training};
use peft_lora::{LoraBuilder, LoraConfig};

const ADAPTERS: [&str; 11] = [
    "alpha_is_not_r",
    "patterns",
    "rslora",
    "regex",
    "excluded",
    "excluded_by_regex",
    "layers",
    "one_layer",
    "all_linear",
    "gaussian",
    "bf16",
];

#[test]
fn adapters_saved_by_peft_give_its_outputs_gradients_and_merged_weights() {
    let expected = tensors("expected.safetensors");
    for name in ADAPTERS {
        let mut builder = LoraBuilder::from_pretrained(fixture("adapters").join(name)).unwrap();
        let net = Net::build(&mut builder, DType::F32).unwrap();
        let adapter = builder.finish().unwrap();

        let output = net.infer(&ids());
        let error = difference(&output, &expected[&format!("{name}.output")]);
        assert!(error < 1e-6, "{name}: {error:e}");
        let change = difference(&output, &expected["base.output"]);
        assert!(change > 0.05, "{name} has no effect to speak of: {change:e}");

        for merged in adapter.merged_weights() {
            let (weight, merged) = merged.unwrap();
            let key = format!("{name}.merged.{}", weight.strip_suffix(".weight").unwrap());
            let error = difference(&merged, &expected[&key]);
            assert!(error < 1e-6, "{key}: {error:e}");
        }

        // With dropout, PEFT's gradients depend on its own masks.
        if adapter.config().lora_dropout == 0.0 {
            let gradients = loss(&net.forward(&ids(), &training(0))).backward().unwrap();
            for (parameter, var) in adapter.parameters() {
                let key = format!("{name}.gradient.{parameter}");
                let error = difference(gradients.get(&var).unwrap(), &expected[&key]);
                assert!(error < 1e-5, "{key}: {error:e}");
            }
        }
    }
}

/// The same adapter as a pickle in both layouts, with the names that it has inside a model, and with a
/// configuration that names another initialisation. PEFT computes the same outputs for all of them.
#[test]
fn adapters_in_pickle_files_give_the_same_outputs() {
    let expected = tensors("expected.safetensors");
    for name in ["zip", "legacy", "default", "eva"] {
        let mut builder = LoraBuilder::from_pretrained(fixture("adapters_in_bins").join(name)).unwrap();
        let net = Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap();
        let error = difference(&net.infer(&ids()), &expected["alpha_is_not_r.output"]);
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

#[test]
fn default_options_equal_pefts() {
    let json = std::fs::read_to_string(fixture("default_config.json")).unwrap();
    assert_eq!(serde_json::from_str::<LoraConfig>(&json).unwrap(), LoraConfig::default());
}

/// Saves adapters and their outputs for `fixtures/check_in_peft.py`, which opens them with PEFT. Set
/// `PEFT_LORA_KEEP` to a folder to keep the files.
#[test]
fn saved_adapters_have_the_tensors_that_peft_names() {
    let kept = std::env::var_os("PEFT_LORA_KEEP");
    let temporary = tempfile::tempdir().unwrap();
    let root = kept.map_or_else(|| temporary.path().to_owned(), Into::into);
    let names = ["query", "value"];
    let patterns = LoraConfig {
        rank_pattern: vec![("blocks.0.query".into(), 2), (".*query".into(), 3)],
        alpha_pattern: vec![(r"blocks\.[12]\.value".into(), 2.5)],
        ..config(names)
    };
    let cases = [
        ("alpha_is_not_r", LoraConfig { lora_dropout: 0.1, ..config(names) }),
        ("patterns", patterns),
        ("rslora", LoraConfig { use_rslora: true, ..config([names[0], "head"]) }),
        ("regex", config(r"(?!.*\.1\.)blocks\.\d\.(query|mlp\.fc\d)")),
        ("all_linear", config("all-linear")),
        (
            "layers",
            LoraConfig {
                layers_to_transform: vec![2],
                layers_pattern: vec!["blocks".into()],
                exclude_modules: Some(["key"].into()),
                ..config(["query", "key", "fc2"])
            },
        ),
    ];
    for (name, config) in cases {
        let (net, adapter) = adapted(config);
        let dir = root.join(name);
        adapter.save(&dir).unwrap();
        net.infer(&ids()).save_safetensors("output", dir.join("output.safetensors")).unwrap();

        let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(header.tensors().len(), 2 * adapter.layers().count());
        for layer in adapter.layers() {
            let name = |matrix| format!("base_model.model.{}.lora_{matrix}.weight", layer.path());
            assert_eq!(header.info(&name("A")).unwrap().shape, layer.a().dims());
            assert_eq!(header.info(&name("B")).unwrap().shape, layer.b().dims());
        }
    }
}
