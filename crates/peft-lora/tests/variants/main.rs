//! DoRA, PiSSA, OLoRA, trained biases and modules: PEFT's outputs, gradients, merged weights and files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../common/mod.rs"]
mod common;

mod bases;
mod files;
mod gradients;
mod options;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use common::{Net, config, fixture, values};
use peft_lora::{Adapter, Bias, InitLoraWeights, LoraBuilder, LoraConfig};

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
