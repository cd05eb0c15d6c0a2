//! Builders on values that track gradients.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use train_ops::{ForwardContext, FrozenBuilder, Int8Builder, LayerBuilder, LayerNorm};

/// A `VarBuilder` of a `VarMap` returns variables: a norm made of them was trained by mistake, although its
/// builder is frozen.
#[test]
fn parameters_of_a_varmap_are_frozen_by_builders_that_freeze() {
    let variables = VarMap::new();
    let source = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let builders: [&mut dyn LayerBuilder; 2] = [&mut FrozenBuilder, &mut Int8Builder];
    for builder in builders {
        let mut parameter = |path: &str| {
            let value = source.get(4, path).unwrap();
            assert!(value.track_op(), "the test needs values that are trained");
            builder.parameter(path, value).unwrap()
        };
        let (weight, bias) = (parameter("norm.weight"), parameter("norm.bias"));
        assert!(!weight.track_op() && !bias.track_op());
        let norm = LayerNorm::new("norm", weight, bias, 1e-5).unwrap();
        assert!(norm.parameters().is_empty());
        let layer = builder.linear("layer", source.get((3, 4), "layer.weight").unwrap(), None).unwrap();
        let xs = Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap();
        let ctx = ForwardContext::training([0u64, 1]);
        let ys = layer.forward(&norm.forward(&xs, &ctx).unwrap(), &ctx).unwrap();
        assert!(!ys.track_op());
    }
    assert_eq!(variables.all_vars().len(), 3);
}
