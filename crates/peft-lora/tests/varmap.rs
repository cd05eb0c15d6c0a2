//! A model whose weights come from a `VarMap`.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};
use peft_lora::{LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, LayerBuilder};

/// The tensors from a `VarBuilder` over a `VarMap` are variables, which must not be trained: the norms and
/// embeddings here.
#[test]
fn only_adapters_get_gradients_if_the_weights_come_from_a_varmap() {
    let variables = VarMap::new();
    let source = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let config = LoraConfig { target_modules: ["query"].into(), ..LoraConfig::default() };
    let mut builder = LoraBuilder::new(config).unwrap();
    let scale = source.get((4,), "norm.weight").unwrap();
    assert!(scale.track_op(), "the test needs values that are trained");
    let scale = builder.parameter("norm.weight", scale).unwrap();
    assert!(!scale.track_op());
    let bias = source.get(3, "query.bias").unwrap();
    let query = builder.linear("query", source.get((3, 4), "query.weight").unwrap(), Some(bias)).unwrap();
    let adapter = builder.finish().unwrap();

    let xs = candle_core::Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap();
    let ys = query.forward(&xs.broadcast_mul(&scale).unwrap(), &ForwardContext::training([7u64])).unwrap();
    let gradients = ys.sum_all().unwrap().backward().unwrap();
    assert!(variables.all_vars().iter().all(|frozen| gradients.get(frozen).is_none()));
    assert!(adapter.parameters().values().all(|parameter| gradients.get(parameter).is_some()));
}
