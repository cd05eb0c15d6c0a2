//! Frozen layers with int8 weights.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use train_ops::{
    Dropout, Error, ForwardContext, FrozenLinear, LinearLayer, LoraWeights, lora_linear, sample_key,
};

fn uniform(seed: u64, shape: (usize, usize)) -> Tensor {
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..(shape.0 * shape.1) as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn in_f64(seed: u64, shape: (usize, usize)) -> Tensor {
    uniform(seed, shape).to_dtype(DType::F64).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

/// A quantised weight is off by at most half a scale, `max |w| / 254`; of uniform weights that makes about 0.4 % of
/// the result.
#[test]
fn a_quantised_layer_is_within_half_a_scale_of_the_exact_one_in_every_weight() {
    for (k, n) in [(300, 40), (7, 19), (1, 1), (64, 16)] {
        let (weight, bias) = (uniform(1, (n, k)), uniform(2, (1, n)).squeeze(0).unwrap());
        let exact = FrozenLinear::new("exact", weight.clone(), Some(bias.clone())).unwrap();
        let layer = FrozenLinear::quantised("int8", weight.clone(), Some(bias)).unwrap();
        for (kept, weight) in rows(&layer.weight().unwrap()).iter().zip(rows(&weight)) {
            let largest = weight.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            for (kept, weight) in kept.iter().zip(&weight) {
                assert!((kept - weight).abs() <= largest / 254.0 * 1.0001, "{kept}, not {weight}");
            }
        }
        // Skinny and blocked products.
        for batch in [1, 2, 4, 5, 30] {
            let xs = uniform(3, (batch, k));
            let ctx = ForwardContext::inference();
            let got = rows(&layer.forward(&xs, &ctx).unwrap());
            let own = FrozenLinear::new("own", layer.weight().unwrap(), exact.bias().cloned()).unwrap();
            let close = rows(&own.forward(&xs, &ctx).unwrap());
            for (got, close) in got.iter().flatten().zip(close.iter().flatten()) {
                assert!((got - close).abs() <= 2e-7 * (k as f32 + 2.0), "({k}, {n}): {got}, not {close}");
            }
            if k < 64 {
                continue;
            }
            let exact = rows(&exact.forward(&xs, &ctx).unwrap());
            let (mut error, mut norm) = (0.0, 0.0);
            for (got, exact) in got.iter().flatten().zip(exact.iter().flatten()) {
                error += (got - exact).powi(2);
                norm += exact.powi(2);
            }
            assert!((error / norm).sqrt() < 6e-3, "({k}, {n}): off by {} of the norm", (error / norm).sqrt());
        }
    }
}

#[test]
fn rows_of_zeros_stay_zeros_when_quantised() {
    let weight = Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap();
    let layer = FrozenLinear::quantised("int8", weight, None).unwrap();
    assert_eq!(
        rows(&layer.forward(&uniform(1, (2, 5)), &ForwardContext::inference()).unwrap()),
        [[0.0; 3]; 2]
    );
}

#[test]
fn int8_is_made_of_every_type_on_the_cpu_and_refuses_activations_without_a_kernel() {
    let weight = uniform(1, (4, 5));
    let expected = values(&FrozenLinear::quantised("layer", weight.clone(), None).unwrap().weight().unwrap());
    let plain = FrozenLinear::new("layer", weight.to_dtype(DType::F64).unwrap(), None).unwrap();
    let int8 = plain.to_int8().unwrap();
    assert_eq!(values(&int8.weight().unwrap()), expected);
    assert_eq!(values(&int8.to_int8().unwrap().weight().unwrap()), expected);
    let ctx = ForwardContext::inference();
    assert!(int8.forward(&uniform(2, (3, 5)), &ctx).is_ok());
    let xs = in_f64(2, (3, 5));
    let (a, b, dropout) = (in_f64(3, (1, 5)), in_f64(4, (4, 1)), Dropout::new("", 0.0));
    let lora = LoraWeights { a: &a, b: &b, scale: 1.0, dropout: &dropout.unwrap() };
    for result in [int8.forward(&xs, &ctx), lora_linear(&xs, &int8, lora, &ctx)] {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Int8 { path, dtype: DType::F64, .. } if path == "layer"), "{error}");
    }
}
