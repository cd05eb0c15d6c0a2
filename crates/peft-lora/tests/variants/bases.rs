//! Bases: changed by new adapters, in 16 and 8 bits, merged and copied.

use candle_core::{DType, Device, Tensor};
use peft_lora::{BaseType, Error, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, FrozenBuilder, LayerBuilder as _};

use crate::common::{Net, adapted, adapted_as, config, difference, ids, tensors, values};
use crate::{change, norm, table};

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
