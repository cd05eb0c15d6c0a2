//! A transformer layer as one operation against the same layer composed of smaller ones, whose own gradients are checked
//! against finite differences.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/layer.rs"]
mod layer;

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use train_ops::{
    AdaptedLinear, AttentionMask, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer, LoraWeights,
    TransformerLayer, sample_key,
};

use common::adapted::Adapted;
use common::{adapted, values};
use layer::transformer_layer;

const WIDTH: usize = 24;
const INNER: usize = 40;
const HEADS: usize = 3;
const TOKENS: usize = 9;
const PREFIX: usize = 5;

/// The layer as one operation, or composed.
fn layer(norm_first: bool, one_operation: bool) -> TransformerLayer {
    layer_with(INNER, norm_first, one_operation)
}

/// As [`layer`], with an MLP of `inner` inner values.
fn layer_with(inner: usize, norm_first: bool, one_operation: bool) -> TransformerLayer {
    let linear =
        |seed, n_in, n_out| -> Arc<dyn LinearLayer> { Arc::new(adapted(seed, n_in, n_out, one_operation)) };
    let norm = |seed| {
        let weight = (values(seed, WIDTH) + 1.5).unwrap();
        LayerNorm::new("norm", weight, values(seed + 1, WIDTH), 1e-5).unwrap()
    };
    transformer_layer(HEADS, (WIDTH, inner), norm_first, linear, norm)
}

fn all(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 0, 0), sample_key(1, 0, 1)])
}

/// The result, the gradient of the input, and those of all adapters in order.
fn run(layer: &TransformerLayer, xs: &Tensor, mask: AttentionMask) -> Vec<Vec<f32>> {
    let ys = layer.forward(xs, mask, &training()).unwrap();
    let loss = (&ys * values(9, ys.shape())).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let mut found = vec![all(&ys)];
    found.extend(gradients.get(xs).map(all));
    found.extend(layer.parameters().iter().map(|parameter| all(gradients.get(parameter).unwrap())));
    found
}

fn masks() -> [AttentionMask; 4] {
    [
        AttentionMask::Full,
        AttentionMask::CausalAfterPrefix { prefix: PREFIX, first_query: 0 },
        AttentionMask::CausalAfterPrefix { prefix: PREFIX, first_query: PREFIX },
        AttentionMask::CausalAfterPrefix { prefix: PREFIX, first_query: PREFIX + 1 },
    ]
}

/// Sums of up to 40 products of numbers near 1, and norms of them, in another order: a few roundings of the largest value.
fn assert_close(name: &str, got: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "{name}: tensor {index} is zero");
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (got - expected).abs() <= 5e-6 * largest,
                "{name}, tensor {index}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn one_operation_agrees_with_the_composition_in_value_and_all_gradients() {
    // Rows of 1024 values lie apart from one another, as those of all of GIT's sizes do.
    for inner in [INNER, 1024] {
        for norm_first in [false, true] {
            for mask in masks() {
                let xs = Var::from_tensor(&values(7, (2, TOKENS, WIDTH))).unwrap();
                let expected = run(&layer_with(inner, norm_first, false), &xs, mask);
                let got = run(&layer_with(inner, norm_first, true), &xs, mask);
                assert_eq!(got.len(), 2 + 12);
                assert_close(&format!("inner {inner}, norm_first {norm_first}, {mask:?}"), &got, &expected);
            }
        }
    }
}

/// As with adapters of the projections alone.
#[test]
fn an_output_layer_of_the_mlp_without_an_adapter_has_the_gradients_of_the_composition() {
    let layer = |norm_first, one_operation| {
        let output: Arc<dyn LinearLayer> = Arc::new(adapted(6, INNER, WIDTH, true).base);
        TransformerLayer { output, ..layer(norm_first, one_operation) }
    };
    for norm_first in [false, true] {
        for mask in masks() {
            let xs = Var::from_tensor(&values(7, (2, TOKENS, WIDTH))).unwrap();
            let expected = run(&layer(norm_first, false), &xs, mask);
            let got = run(&layer(norm_first, true), &xs, mask);
            assert_eq!(got.len(), 2 + 10);
            assert_close(&format!("norm_first {norm_first}, {mask:?}"), &got, &expected);
        }
    }
}

#[test]
fn a_frozen_input_gets_no_gradient_and_the_adapters_get_theirs() {
    for norm_first in [false, true] {
        for mask in masks() {
            let xs = values(7, (2, TOKENS, WIDTH));
            let layer = layer(norm_first, true);
            let of_frozen = run(&layer, &xs, mask);
            let mut of_tracked = run(&layer, &Var::from_tensor(&xs).unwrap(), mask);
            of_tracked.remove(1);
            assert_eq!(of_frozen, of_tracked, "norm_first {norm_first}, {mask:?}");
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits() {
    for norm_first in [false, true] {
        for one_operation in [false, true] {
            let xs = Var::from_tensor(&values(7, (2, TOKENS, WIDTH))).unwrap();
            let layer = layer(norm_first, one_operation);
            let again = TransformerLayer { recompute: true, ..layer.clone() };
            for mask in masks() {
                assert_eq!(run(&layer, &xs, mask), run(&again, &xs, mask), "{norm_first} {one_operation}");
            }
        }
    }
}

#[test]
fn inference_has_no_dropout_and_no_graph_of_the_adapters() {
    let xs = values(7, (2, TOKENS, WIDTH));
    for norm_first in [false, true] {
        let mask = AttentionMask::CausalAfterPrefix { prefix: PREFIX, first_query: 0 };
        let ys = layer(norm_first, true).forward(&xs, mask, &ForwardContext::inference()).unwrap();
        assert!(!ys.track_op());
        let mut undropped = layer(norm_first, false);
        let none = Dropout::new("", 0.0).unwrap();
        for dropout in [
            &mut undropped.attention_dropout,
            &mut undropped.attention_output_dropout,
            &mut undropped.output_dropout,
        ] {
            *dropout = none.clone();
        }
        let expected = undropped.forward(&xs, mask, &ForwardContext::inference()).unwrap();
        assert_close("inference", &[all(&ys)], &[all(&expected)]);
    }
}

#[test]
fn keys_and_values_are_those_that_the_layer_saw() {
    let xs = values(7, (2, TOKENS, WIDTH));
    for norm_first in [false, true] {
        for mask in masks() {
            let [of_one, of_many] = [true, false].map(|one_operation| {
                let layer = layer(norm_first, one_operation);
                let results = layer.forward_with_keys(&xs, mask).unwrap();
                assert_eq!(
                    all(&results[0]),
                    all(&layer.forward(&xs, mask, &ForwardContext::inference()).unwrap())
                );
                assert!(results[1..].iter().all(|tensor| tensor.dims() == xs.dims()));
                results.map(|tensor| all(&tensor))
            });
            assert_close(&format!("norm_first {norm_first}, {mask:?}"), &of_one, &of_many);
        }
    }
}

/// The gradient of elements of the input by central differences in f32: the third derivative and the rounding of the loss
/// leave two digits.
#[test]
fn gradients_are_those_of_finite_differences() {
    let mask = AttentionMask::CausalAfterPrefix { prefix: PREFIX, first_query: 0 };
    for norm_first in [false, true] {
        let layer = layer(norm_first, true);
        let xs = Var::from_tensor(&values(7, (2, TOKENS, WIDTH))).unwrap();
        let loss = |xs: &Tensor| {
            let ys = layer.forward(xs, mask, &training()).unwrap();
            let weighted = (&ys * values(9, ys.shape())).unwrap();
            all(&weighted).into_iter().map(f64::from).sum::<f64>()
        };
        let gradients = run(&layer, &xs, mask);
        for token in [0, PREFIX, TOKENS - 1] {
            let at = (TOKENS + token) * WIDTH + 5;
            let step = 1e-2f32;
            let moved = |by: f32| {
                let mut moved = all(&xs);
                moved[at] += by;
                loss(&Tensor::from_vec(moved, xs.shape(), &Device::Cpu).unwrap())
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let gradient = f64::from(gradients[1][at]);
            let bound = 1e-2 * gradient.abs().max(0.1);
            assert!((difference - gradient).abs() < bound, "token {token}: {gradient}, not {difference}");
        }
    }
}

#[test]
fn a_second_backward_pass_is_refused() {
    let xs = Var::from_tensor(&values(7, (2, TOKENS, WIDTH))).unwrap();
    let ys = layer(false, true).forward(&xs, AttentionMask::Full, &training()).unwrap();
    let loss = ys.sum_all().unwrap();
    assert!(loss.backward().is_ok());
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("second backward pass"), "{error}");
}

#[test]
fn an_input_of_another_shape_is_a_clear_error() {
    for shape in [vec![2, TOKENS, WIDTH + 1], vec![TOKENS, WIDTH]] {
        let error = layer(false, true).forward(
            &values(1, shape.clone()),
            AttentionMask::Full,
            &ForwardContext::inference(),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("expected shape (..., 24)") || error.contains("rank"), "{shape:?}: {error}");
    }
}

#[test]
fn a_layer_on_rows_refuses_dimensions_that_are_not_the_rows() {
    let Adapted { base, a, b, dropout, .. } = adapted(1, WIDTH, WIDTH, true);
    let lora = LoraWeights { a: &a, b: &b, scale: 0.7, dropout: &dropout };
    let layer = AdaptedLinear::new(&base, Some(lora)).unwrap();
    let xs = all(&values(7, (2, TOKENS, WIDTH)));
    let (mut ys, mut dxs) = (xs.clone(), xs.clone());
    let mut run = |dims: &[usize]| layer.forward_backward((&xs, dims), &mut ys, &xs, &mut dxs, &training());
    assert!(run(&[2, TOKENS, WIDTH]).is_ok());
    // As many values, but the mask would be one of rows of another width.
    for dims in [vec![2, TOKENS, 3, WIDTH / 3], vec![2 * TOKENS * WIDTH], vec![2, TOKENS, WIDTH + 1]] {
        assert!(run(&dims).is_err(), "{dims:?}");
    }
}

#[test]
fn weights_without_rows_or_columns_are_refused() {
    let empty = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    for shape in [(0, 4), (4, 0), (0, 0)] {
        let error = FrozenLinear::new("layer", empty(shape), None).unwrap_err().to_string();
        assert!(error.contains("layer.weight"), "{error}");
    }
    let base = adapted(1, WIDTH, WIDTH, true).base;
    let (a, b, dropout) = (empty((0, WIDTH)), empty((WIDTH, 0)), Dropout::new("", 0.0).unwrap());
    let lora = LoraWeights { a: &a, b: &b, scale: 1.0, dropout: &dropout };
    assert!(AdaptedLinear::new(&base, Some(lora)).is_err(), "a rank of 0");
}

#[test]
fn an_empty_batch_goes_forward_and_backward() {
    let layer = adapted(1, WIDTH, WIDTH, true);
    let xs =
        Var::from_tensor(&Tensor::zeros((0, WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
    let ys = layer.forward(&xs, &ForwardContext::inference()).unwrap();
    assert_eq!(ys.dims(), [0, WIDTH]);
    let gradients = ys.sum_all().unwrap().backward().unwrap();
    for parameter in layer.parameters() {
        assert!(
            gradients.get(&parameter).is_none_or(|gradient| all(gradient).iter().all(|value| *value == 0.0))
        );
    }
}
