//! DoRA, PiSSA, OLoRA, trained biases and modules: PEFT's outputs, gradients, merged weights and files.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use common::{Net, adapted, adapted_as, config, difference, fixture, ids, loss, tensors, training, values};
use peft_lora::{Adapter, BaseType, Bias, Error, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::{Dropout, ForwardContext, FrozenBuilder, LayerBuilder as _, sample_key};

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

fn opened(name: &str) -> (Net, Adapter) {
    let mut builder = LoraBuilder::from_pretrained(fixture("variants").join(name)).unwrap();
    let net = Net::build(&mut builder, DType::F32).unwrap();
    (net, builder.finish().unwrap())
}

fn norm(tensor: &Tensor) -> f32 {
    values(tensor).iter().map(|value| value * value).sum::<f32>().sqrt()
}

fn weights_of(adapter: &Adapter) -> BTreeMap<String, Tensor> {
    adapter.merged_weights().map(Result::unwrap).collect()
}

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

/// Configurations of new adapters, whose initial weights have an effect.
fn table() -> Vec<(&'static str, LoraConfig)> {
    vec![
        ("dora", LoraConfig { use_dora: true, ..config(["query", "fc1", "head"]) }),
        ("dora_dropout", LoraConfig { use_dora: true, lora_dropout: 0.4, ..config(["query", "fc2"]) }),
        ("lora_bias", LoraConfig { lora_bias: true, ..config(["query", "fc1"]) }),
        ("bias_all", LoraConfig { bias: Bias::All, ..config(["query", "key"]) }),
        ("bias_lora_only", LoraConfig { bias: Bias::LoraOnly, ..config(["query", "key"]) }),
        (
            "modules_to_save",
            LoraConfig { modules_to_save: vec!["head".into(), "embed".into()], ..config(["query"]) },
        ),
        ("pissa", LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..config(["query", "fc1"]) }),
        (
            "pissa_niter_8",
            LoraConfig { init_lora_weights: InitLoraWeights::PissaNiter(8), ..config(["query", "fc1"]) },
        ),
        (
            "olora",
            LoraConfig {
                init_lora_weights: InitLoraWeights::Olora,
                rank_pattern: vec![("fc1".into(), 2)],
                ..config(["query", "fc1"])
            },
        ),
        (
            "olora_rslora",
            LoraConfig { init_lora_weights: InitLoraWeights::Olora, use_rslora: true, ..config(["value"]) },
        ),
    ]
}

/// Moves all parameters, so that every part of an adapter has an effect.
fn change(adapter: &Adapter) {
    for (name, var) in adapter.parameters() {
        let places = Tensor::arange(0f32, var.elem_count() as f32, &Device::Cpu).unwrap();
        let waves =
            places.affine(1.7, name.len() as f64).unwrap().sin().unwrap().reshape(var.dims()).unwrap();
        var.set(&(var.as_detached_tensor() + (waves * 0.1).unwrap()).unwrap()).unwrap();
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
        adapter.load_weights(&dir).unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&output), "{name}");
    }
}

#[test]
fn every_parameter_gets_a_gradient_and_disabling_restores_the_linear_layers() {
    let base = Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids());
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        change(&adapter);
        let gradients = loss(&net.forward(&ids(), &training(0))).backward().unwrap();
        for (parameter, var) in adapter.parameters() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: none for {parameter}"));
            assert_eq!(gradient.dims(), var.dims());
            assert!(norm(gradient) > 0.0, "{name}: zero for {parameter}");
        }
        assert!(!net.infer(&ids()).track_op(), "{name}: inference records a graph");
        if name == "modules_to_save" {
            continue; // The embedding is trained in place.
        }
        let _base = adapter.disable();
        assert_eq!(values(&net.infer(&ids())), values(&base), "{name}");
    }
}

/// Central differences of the loss in f32, along the gradient of each parameter, where they are largest. The norms of DoRA are
/// constants for the gradient and no constants for the loss, so that its `A` and `B` are left out.
#[test]
fn gradients_agree_with_finite_differences() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config.clone());
        change(&adapter);
        let pass = || net.forward(&ids(), &training(0));
        let gradients = loss(&pass()).backward().unwrap();
        for (parameter, var) in adapter.parameters() {
            if config.use_dora && (parameter.contains("lora_A") || parameter.contains("lora_B")) {
                continue;
            }
            let gradient = gradients.get(&var).unwrap();
            let direction = (gradient / f64::from(norm(gradient))).unwrap();
            let value = var.as_detached_tensor().copy().unwrap();
            let at = |step: f64| {
                var.set(&(&value + (&direction * step).unwrap()).unwrap()).unwrap();
                f64::from(loss(&pass()).to_scalar::<f32>().unwrap())
            };
            let slope = (at(0.02) - at(-0.02)) / 0.04;
            var.set(&value).unwrap();
            let expected = f64::from(norm(gradient));
            assert!(
                (slope - expected).abs() < 0.02 * expected + 2e-5,
                "{name}, {parameter}: {slope} and {expected}"
            );
        }
    }
}

#[test]
fn a_new_adapter_that_changes_the_base_computes_what_the_base_does() {
    let expected = tensors("variants.safetensors");
    let base = Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids());
    for (name, r, lora_alpha, targets, use_rslora) in [
        ("pissa", 3, 4.0, ["query", "value", "fc1"], false),
        ("pissa_niter_16", 3, 4.0, ["query", "value", "fc2"], false),
        ("olora_rslora", 3, 4.0, ["query", "value", "value"], true),
    ] {
        let init_lora_weights = match name {
            "pissa" => InitLoraWeights::Pissa,
            "pissa_niter_16" => InitLoraWeights::PissaNiter(16),
            _ => InitLoraWeights::Olora,
        };
        let config = LoraConfig {
            r,
            lora_alpha,
            use_rslora,
            init_lora_weights,
            target_modules: targets.into(),
            ..LoraConfig::default()
        };
        let (net, adapter) = adapted(config);
        let error = difference(&net.infer(&ids()), &base);
        assert!(error < 2e-6, "{name}: {error:e}");
        // The part of the weight that is left alone, which does not depend on the signs of singular vectors.
        for layer in adapter.layers() {
            let product = layer.b().matmul(layer.a()).unwrap() * layer.scale();
            let residual = (layer.base().weight().unwrap() - product.unwrap()).unwrap();
            let of_peft = &expected[&format!("{name}.residual.{}", layer.path())];
            if name == "pissa_niter_16" {
                // Both are approximations that begin with other random vectors.
                let (own, of_peft) = (norm(&residual), norm(of_peft));
                assert!((own / of_peft - 1.0).abs() < 0.02, "{}: {own} and {of_peft}", layer.path());
                continue;
            }
            let error = norm(&(&residual - of_peft).unwrap()) / norm(&layer.base().weight().unwrap());
            assert!(error < 2e-5, "{name}, {}: {error:e}", layer.path());
        }
    }
}

/// PEFT drops the input of both products of DoRA, and adds the difference to the base's result for the whole input.
#[test]
fn dora_drops_its_input_as_peft_does() {
    let weight = Tensor::new(&[[1f32, -2., 3.], [0.5, 4., -1.]], &Device::Cpu).unwrap();
    let bias = Tensor::new(&[0.25f32, -0.75], &Device::Cpu).unwrap();
    let options = LoraConfig { r: 2, lora_dropout: 0.5, use_dora: true, ..config(["layer"]) };
    let mut builder = LoraBuilder::new(options).unwrap();
    let layer = builder.linear("layer", weight.clone(), Some(bias.clone())).unwrap();
    let adapter = builder.finish().unwrap();
    change(&adapter);
    let xs = Tensor::new(&[[[1f32, 2., 3.], [-1., 0.5, 2.]], [[0.3, -2., 1.], [4., 1., -3.]]], &Device::Cpu)
        .unwrap();
    let ctx = ForwardContext::training([sample_key(3, 1, 0), sample_key(3, 1, 1)]);
    let dropped = Dropout::new("layer.lora_dropout", 0.5).unwrap().forward(&xs, &ctx).unwrap();
    assert_ne!(values(&dropped), values(&xs));

    let lora = adapter.layers().next().unwrap();
    let delta = (lora.b().matmul(lora.a()).unwrap() * lora.scale()).unwrap();
    let norms = (&weight + &delta).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let magnitude = &adapter.parameters()["base_model.model.layer.lora_magnitude_vector"];
    let factors = (magnitude.as_tensor() / norms).unwrap();
    let product = |xs: &Tensor, weight: &Tensor| xs.broadcast_matmul(&weight.t().unwrap()).unwrap();
    let base = product(&xs, &weight).broadcast_add(&bias).unwrap();
    // result + (g - 1) x W + g s B A x, as in PEFT's DoraLinearLayer.
    let scaled = product(&dropped, &weight).broadcast_mul(&(&factors - 1.0).unwrap()).unwrap();
    let update = product(&dropped, &delta).broadcast_mul(&factors).unwrap();
    let expected = ((base + scaled).unwrap() + update).unwrap();
    let error = difference(&layer.forward(&xs, &ctx).unwrap(), &expected);
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn adapters_act_on_bases_in_16_and_8_bits() {
    for (base, bound) in [(BaseType::Bf16, 0.02), (BaseType::Int8, 0.05), (BaseType::Int8Products, 0.1)] {
        for (name, config) in table().into_iter().filter(|(name, _)| !name.contains("dropout")) {
            let (net, adapter) = adapted(config.clone());
            change(&adapter);
            let exact = net.infer(&ids());
            let mut builder = LoraBuilder::new(config).unwrap().output_layer("head").seed(1).base(base);
            let net = Net::build(&mut builder, DType::F32).unwrap();
            change(&builder.finish().unwrap());
            let error = difference(&net.infer(&ids()), &exact);
            assert!(error > 0.0 && error < bound, "{name} on {base:?}: {error:e}");
        }
    }
    // bf16 that a model's constructor chose is the same.
    let (net, _) = adapted_as(config(["query"]), DType::BF16);
    let mut builder = LoraBuilder::new(config(["query"])).unwrap().seed(1).base(BaseType::Bf16);
    let same = Net::build(&mut builder, DType::F32).unwrap();
    builder.finish().unwrap();
    assert_eq!(values(&same.infer(&ids())), values(&net.infer(&ids())));
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

#[test]
fn options_that_contradict_each_other_are_refused() {
    let dora = || LoraConfig { use_dora: true, ..config(["query"]) };
    let pissa = || LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..config(["query"]) };
    for (config, expected) in [
        (LoraConfig { lora_bias: true, ..dora() }, "option lora_bias: cannot be combined with use_dora"),
        (
            LoraConfig { lora_bias: true, ..pissa() },
            "option lora_bias: needs init_lora_weights to be true or false",
        ),
        (LoraConfig { use_dora: true, ..pissa() }, "option use_dora: cannot be combined with PiSSA or OLoRA"),
        (LoraConfig { lora_alpha: -1.0, ..pissa() }, "option lora_alpha: must be positive with PiSSA"),
        (
            LoraConfig { use_rslora: true, rank_pattern: vec![("query".into(), 2)], ..pissa() },
            "option use_rslora: with rank_pattern or alpha_pattern cannot be combined with PiSSA or OLoRA",
        ),
        (
            LoraConfig { bias: Bias::All, modules_to_save: vec!["head".into()], ..config(["query"]) },
            "option bias: \"all\" cannot be combined with modules_to_save",
        ),
        (LoraConfig { modules_to_save: vec![String::new()], ..config(["query"]) }, "holds an empty name"),
    ] {
        let error = LoraBuilder::new(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let finish = |config| {
        let mut builder = LoraBuilder::new(config).unwrap();
        Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap_err()
    };
    let error = finish(LoraConfig { r: 9, ..pissa() }).to_string();
    assert!(
        error.starts_with("blocks.0.query: a rank of 9 is more than") && error.contains("at most 8"),
        "{error}"
    );
    let error = finish(LoraConfig { modules_to_save: vec!["haed".into()], ..config(["query"]) }).to_string();
    assert!(error.starts_with("modules_to_save: haed matches no module; the model has head"), "{error}");

    let mut builder = LoraBuilder::new(dora()).unwrap();
    builder.linear("query", Tensor::new(&[[1f32, 2.], [0., 0.]], &Device::Cpu).unwrap(), None).unwrap();
    let error = builder.finish().unwrap_err();
    assert!(matches!(&error, Error::ZeroRow { path, row: 1 } if path == "query"), "{error}");

    let error = LoraBuilder::from_pretrained(fixture("variants/pissa_niter_16")).unwrap_err();
    assert!(
        matches!(&error, Error::RandomInitialisation { init, .. } if init == "pissa_niter_16"),
        "{error}"
    );
}

#[test]
fn a_bias_is_not_merged_into_a_layer_that_has_none() {
    let (net, adapter) = adapted(LoraConfig { lora_bias: true, ..config(["fc2"]) });
    change(&adapter);
    let error = adapter.merged_weights().find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::NoBias { path } if path == "blocks.0.mlp.fc2"), "{error}");
    // In memory the layer can have one.
    let before = net.infer(&ids());
    adapter.merge().unwrap();
    assert!(difference(&net.infer(&ids()), &before) < 1e-6);
}

#[test]
fn a_snapshot_of_any_kind_computes_what_the_layer_does() {
    for (name, config) in table() {
        let mut builder = LoraBuilder::new(LoraConfig {
            target_modules: ["layer"].into(),
            modules_to_save: Vec::new(),
            rank_pattern: Vec::new(),
            ..config
        })
        .unwrap();
        let places = Tensor::arange(0f32, 48., &Device::Cpu).unwrap().sin().unwrap();
        let weight = places.reshape((6, 8)).unwrap();
        let layer = builder.linear("layer", weight.clone(), Some(weight.get_on_dim(1, 0).unwrap())).unwrap();
        let adapter = builder.finish().unwrap();
        change(&adapter);
        let (xs, ctx) = (places.reshape((2, 3, 8)).unwrap(), ForwardContext::inference());
        let copy = train_ops::snapshot(&layer).unwrap();
        let expected = layer.forward(&xs, &ctx).unwrap();
        let error = difference(&copy.forward(&xs, &ctx).unwrap(), &expected);
        assert!(error < 2e-6, "{name}: {error:e}");
        // It is a copy: the adapter changes, and the snapshot does not.
        change(&adapter);
        assert!(difference(&layer.forward(&xs, &ctx).unwrap(), &expected) > 1e-3, "{name}");
        assert!(difference(&copy.forward(&xs, &ctx).unwrap(), &expected) < 2e-6, "{name}");
    }
}
