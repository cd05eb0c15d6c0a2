//! Training on frozen weights with integer products.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/layer.rs"]
mod layer;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use cpu_kernels::MAX_INT8_ROW;
use rayon::ThreadPoolBuilder;
use train_ops::{
    AttentionMask, Error, ForwardContext, FrozenLinear, LayerNorm, LinearLayer, TransformerLayer,
    linear_cross_entropy_sum, sample_key,
};

use common::adapted::Adapted;
use common::{adapted, values};
use layer::transformer_layer;

fn all(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 0, 0), sample_key(1, 0, 1)])
}

/// How far `got` is from `expected`, relative to the norm of that.
fn norm_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(expected).map(|(got, expected)| square(got - expected)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// The layer with an int8 weight.
fn quantised(layer: &Adapted) -> Adapted {
    Adapted { base: layer.base.to_int8_products().unwrap(), ..layer.clone() }
}

/// The layer in f32 with the quantised weight.
fn dequantised(layer: &Adapted) -> Adapted {
    let weight = quantised(layer).base.weight().unwrap();
    Adapted { base: FrozenLinear::new("", weight, layer.base.bias().cloned()).unwrap(), ..layer.clone() }
}

/// `Σ c y`, and its gradients in `x`, `A` and `B`.
fn loss_and_gradients(layer: &Adapted, xs: &Var, c: &Tensor) -> (f64, [Vec<f32>; 3]) {
    let ys = layer.forward(xs.as_tensor(), &training()).unwrap();
    let loss = (ys * c).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let of = |var: &Tensor| all(gradients.get(var).unwrap());
    (f64::from(loss.to_scalar::<f32>().unwrap()), [of(xs.as_tensor()), of(&layer.a), of(&layer.b)])
}

/// The formula `y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ` in f64 with the quantised `W`.
fn loss_by_the_formula(layer: &Adapted, [xs, a, b]: [&Tensor; 3], mask: &Tensor, c: &Tensor) -> f64 {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let weight = wide(&quantised(layer).base.weight().unwrap());
    let ys = wide(xs).matmul(&weight.t().unwrap()).unwrap();
    let ys = ys.broadcast_add(&wide(layer.base.bias().unwrap())).unwrap();
    let h = (wide(xs) * wide(mask)).unwrap().matmul(&wide(a).t().unwrap()).unwrap();
    let ys = (ys + (h.matmul(&wide(b).t().unwrap()).unwrap() * 0.7).unwrap()).unwrap();
    (ys * wide(c)).unwrap().sum_all().unwrap().to_scalar().unwrap()
}

#[test]
fn gradients_are_the_finite_differences_of_the_formula_with_the_quantised_weight() {
    let (rows, n_in, n_out) = (2, 70, 40);
    let layer = quantised(&adapted(1, n_in, n_out, true));
    let xs = Var::from_tensor(&values(2, (rows, n_in))).unwrap();
    let c = values(3, (rows, n_out));
    let ones = Tensor::ones((rows, n_in), DType::F32, &Device::Cpu).unwrap();
    let mask = layer.dropout.forward(&ones, &training()).unwrap();
    let (loss, gradients) = loss_and_gradients(&layer, &xs, &c);
    let inputs = [xs.as_tensor(), &layer.a, &layer.b];
    let expected = loss_by_the_formula(&layer, inputs, &mask, &c);
    assert!((loss - expected).abs() < 0.02 * expected.abs().max(1.0), "{loss}, not {expected}");
    // Only dx sees the rounding of dy to 8 bits, of at most half a unit in 127.
    for (place, bound) in [(0, 0.01), (1, 1e-4), (2, 1e-4)] {
        let (shape, flat) = (inputs[place].shape().clone(), all(inputs[place]));
        let differences = (0..flat.len()).map(|at| {
            let [up, down] = [0.25, -0.25].map(|step| {
                let mut moved = flat.clone();
                moved[at] += step;
                let moved = Tensor::from_vec(moved, &shape, &Device::Cpu).unwrap();
                let mut inputs = inputs;
                inputs[place] = &moved;
                loss_by_the_formula(&layer, inputs, &mask, &c)
            });
            ((up - down) / 0.5) as f32
        });
        let error = norm_error(&gradients[place], &differences.collect::<Vec<_>>());
        assert!(error < bound, "gradient {place}: off by {error} of the norm");
        assert!(place > 0 || error > 1e-5, "{error}: is dy quantised at all?");
    }
}

fn layer(int8: bool, known: bool) -> TransformerLayer {
    let (width, inner) = (96, 160);
    let linear = |seed, n_in, n_out| -> Arc<dyn LinearLayer> {
        let layer = adapted(seed, n_in, n_out, known);
        Arc::new(if int8 { quantised(&layer) } else { dequantised(&layer) })
    };
    let norm = |seed| {
        let weight = (values(seed, width) + 1.5).unwrap();
        LayerNorm::new("norm", weight, values(seed + 1, width), 1e-5).unwrap()
    };
    transformer_layer(3, (width, inner), false, linear, norm)
}

/// The result, the gradient of the input, and those of all adapters in order.
fn run(layer: &TransformerLayer, xs: &Var) -> Vec<Vec<f32>> {
    let mask = AttentionMask::CausalAfterPrefix { prefix: 5, first_query: 5 };
    let ys = layer.forward(xs.as_tensor(), mask, &training()).unwrap();
    let loss = (&ys * values(9, ys.shape())).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let mut found = vec![all(&ys), all(gradients.get(xs.as_tensor()).unwrap())];
    found.extend(layer.parameters().iter().map(|parameter| all(gradients.get(parameter).unwrap())));
    found
}

#[test]
fn a_transformer_layer_trains_on_int8_as_on_the_dequantised_weights() {
    let xs = Var::from_tensor(&values(7, (2, 21, 96))).unwrap();
    let (exact, composed) = (run(&layer(false, true), &xs), run(&layer(true, false), &xs));
    let got = run(&layer(true, true), &xs);
    assert_eq!((got.len(), exact.len()), (2 + 12, 2 + 12));
    for (index, (got, exact)) in got.iter().zip(&exact).enumerate() {
        let error = norm_error(got, exact);
        assert!(error > 1e-5 && error < 0.03, "tensor {index}: off by {error} of the norm");
    }
    // The layer as one operation and composed of several: roundings of f32 may move an activation to the next integer.
    for (index, (got, composed)) in got.iter().zip(&composed).enumerate() {
        let error = norm_error(got, composed);
        assert!(error < 0.01, "tensor {index}: off by {error} of the norm");
    }
}

#[test]
fn a_layer_has_the_same_bits_with_any_number_of_threads() {
    let xs = Var::from_tensor(&values(7, (2, 21, 96))).unwrap();
    let expected = run(&layer(true, true), &xs);
    for threads in [1, 2, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| run(&layer(true, true), &xs)), expected, "{threads} threads");
    }
}

#[test]
fn the_head_and_its_loss_train_on_int8() {
    let (rows, hidden, vocabulary) = (70, 48, 130);
    let xs = Var::from_tensor(&values(1, (rows, hidden))).unwrap();
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % vocabulary as u32).collect();
    let layer = adapted(4, hidden, vocabulary, true);
    let run = |head: &FrozenLinear| {
        let loss = linear_cross_entropy_sum(xs.as_tensor(), head, &targets, 0.1, &training()).unwrap();
        let gradient = all(loss.backward().unwrap().get(xs.as_tensor()).unwrap());
        (f64::from(loss.to_scalar::<f32>().unwrap()), gradient)
    };
    let ((loss, gradient), (exact, exact_gradient)) =
        (run(&quantised(&layer).base), run(&dequantised(&layer).base));
    assert!((loss / exact - 1.0).abs() < 1e-3, "{loss}, not {exact}");
    let error = norm_error(&gradient, &exact_gradient);
    assert!(error > 1e-5 && error < 0.02, "off by {error} of the norm");
}

#[test]
fn a_layer_keeps_its_products_when_its_weight_is_replaced() {
    let layer = adapted(1, 20, 10, true);
    let (weight, xs) = (values(8, (10, 20)), values(9, (3, 20)));
    let forward = |layer: FrozenLinear| all(&layer.forward(&xs, &ForwardContext::inference()).unwrap());
    let exact = FrozenLinear::new("layer1", weight.clone(), None).unwrap();
    let replaced = |base: &FrozenLinear| forward(base.with_weight(weight.clone(), None).unwrap());
    assert_eq!(replaced(&layer.base), forward(exact.clone()));
    assert_eq!(replaced(&layer.base.to_int8().unwrap()), forward(exact.to_int8().unwrap()));
    let products = forward(exact.to_int8_products().unwrap());
    assert_eq!(replaced(&quantised(&layer).base), products);
    assert!(products != forward(exact.to_int8().unwrap()) && products != forward(exact));
}

#[test]
fn layers_without_room_for_their_sums_and_activations_without_a_kernel_are_refused() {
    let large = Tensor::zeros((1, MAX_INT8_ROW + 1), DType::F32, &Device::Cpu).unwrap();
    let error = FrozenLinear::new("head", large, None).unwrap().to_int8_products().unwrap_err();
    assert!(
        matches!(&error, Error::Int8Size { path, features, limit }
        if path == "head" && (*features, *limit) == (MAX_INT8_ROW + 1, MAX_INT8_ROW)),
        "{error}"
    );
    let layer = quantised(&adapted(1, 5, 4, true));
    let xs = values(2, (3, 5)).to_dtype(DType::F64).unwrap();
    let error = layer.base.forward(&xs, &ForwardContext::inference()).unwrap_err();
    assert!(matches!(error, Error::Int8 { dtype: DType::F64, .. }), "{error}");
}
