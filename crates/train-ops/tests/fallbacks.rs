//! The code for devices and types without kernels, tested with f64 on the CPU, which takes the same paths: values and
//! gradients against the f32 kernels and against finite differences, and no gradient of anything that is frozen.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

#[path = "common/adapted.rs"]
mod adapted;
#[path = "common/layer.rs"]
mod layer;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use train_ops::{
    Activation, AttentionMask, DecodingRows, Dropout, ForwardContext, FrozenLinear, KeyValueCache, LayerNorm,
    LinearLayer, LoraWeights, RotaryLayout, TrainableLinear, TransformerLayer, attention, cached_attention,
    cross_entropy_sum, linear_cross_entropy_sum, lora_linear, rms_norm, rotary_embedding, sample_key,
    softmax_last_dim,
};

use adapted::Adapted;
use layer::transformer_layer;

/// Fixed values in (-1, 1) without structure.
fn values(seed: u64, shape: &[usize]) -> Vec<f64> {
    let count = shape.iter().product::<usize>() as u64;
    (0..count).map(|i| (sample_key(seed, 0, i) >> 40) as f64 / f64::from(1 << 23) - 1.0).collect()
}

fn constant(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_vec(values(seed, shape), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn list(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 2, 0), sample_key(1, 2, 1)])
}

/// An argument of an operation.
struct Input {
    values: Vec<f64>,
    shape: Vec<usize>,
    trained: bool,
}

fn trained(seed: u64, shape: &[usize]) -> Input {
    Input { values: values(seed, shape), shape: shape.to_vec(), trained: true }
}

fn frozen(seed: u64, shape: &[usize]) -> Input {
    Input { trained: false, ..trained(seed, shape) }
}

fn tensors(inputs: &[Input], dtype: DType) -> Vec<Tensor> {
    let tensor = |input: &Input| {
        let tensor = Tensor::from_slice(&input.values, input.shape.as_slice(), &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(dtype).unwrap();
        if input.trained { Var::from_tensor(&tensor).unwrap().as_tensor().clone() } else { tensor }
    };
    inputs.iter().map(tensor).collect()
}

/// Σ y², whose graph adds no gradients of its own.
fn loss(ys: &Tensor) -> Tensor {
    ys.sqr().unwrap().sum_all().unwrap()
}

/// The result and the gradients of the trained inputs, in order. There must be no other gradients.
fn run(name: &str, inputs: &[Input], dtype: DType, f: &impl Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f64>> {
    let arguments = tensors(inputs, dtype);
    let ys = f(&arguments);
    let gradients = loss(&ys).backward().unwrap();
    let trained = inputs.iter().zip(&arguments).filter(|(input, _)| input.trained);
    let trained: Vec<Vec<f64>> = trained
        .map(|(_, tensor)| list(gradients.get(tensor).unwrap_or_else(|| panic!("{name}: no gradient"))))
        .collect();
    assert_eq!(gradients.get_ids().count(), trained.len(), "{name} {dtype:?}: gradients of frozen tensors");
    [vec![list(&ys)], trained].concat()
}

/// Compares the fallback with the kernel and with central differences.
fn check(name: &str, mut inputs: Vec<Input>, f: impl Fn(&[Tensor]) -> Tensor) {
    let exact = run(name, &inputs, DType::F64, &f);
    let kernel = run(name, &inputs, DType::F32, &f);
    for (index, (exact, kernel)) in exact.iter().zip(&kernel).enumerate() {
        let largest = exact.iter().fold(0f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "{name}: tensor {index} is zero");
        for (exact, kernel) in exact.iter().zip(kernel) {
            // A few roundings of f32, and the kernels' approximation of the normal distribution.
            let bound = 1e-5 * largest;
            assert!(
                (exact - kernel).abs() <= bound,
                "{name}, tensor {index}: kernel {kernel}, fallback {exact}"
            );
        }
    }
    let mut gradients = exact[1..].iter();
    for index in 0..inputs.len() {
        if !inputs[index].trained {
            continue;
        }
        for (element, gradient) in gradients.next().unwrap().iter().enumerate() {
            let (original, h) = (inputs[index].values[element], 1e-5);
            let mut at = |value: f64| {
                inputs[index].values[element] = value;
                list(&loss(&f(&tensors(&inputs, DType::F64))))[0]
            };
            let difference = (at(original + h) - at(original - h)) / (2.0 * h);
            inputs[index].values[element] = original;
            assert!(
                (gradient - difference).abs() <= 1e-6 * gradient.abs().max(1.0),
                "{name}, input {index}, element {element}: gradient {gradient}, difference {difference}"
            );
        }
    }
}

#[test]
fn activations() {
    for activation in [Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh, Activation::Silu] {
        check("activation", vec![trained(1, &[3, 7])], |x| activation.forward(&x[0]).unwrap());
    }
}

#[test]
fn softmax() {
    check("softmax", vec![trained(1, &[2, 3, 7])], |x| softmax_last_dim(&x[0]).unwrap());
}

#[test]
fn rms_norm_with_a_trained_and_with_a_frozen_weight() {
    let norm = |x: &[Tensor]| rms_norm(&x[0], &x[1], 1e-5).unwrap();
    check("norm", vec![trained(1, &[2, 3, 7]), trained(2, &[7])], norm);
    check("frozen weight", vec![trained(1, &[2, 3, 7]), frozen(2, &[7])], norm);
    check("frozen input", vec![frozen(1, &[2, 3, 7]), trained(2, &[7])], norm);
}

#[test]
fn rotary_embedding_of_every_layout_with_angles_for_all_and_for_each_sequence() {
    for layout in [RotaryLayout::Halves, RotaryLayout::Interleaved, RotaryLayout::HalvesOfTokens] {
        for angles in [&[5, 4][..], &[2, 5, 4]] {
            let rotary = |x: &[Tensor]| rotary_embedding(&x[0], &x[1], &x[2], layout).unwrap();
            let inputs = vec![trained(1, &[2, 3, 3, 8]), frozen(2, angles), frozen(3, angles)];
            check(&format!("{layout:?} {angles:?}"), inputs, rotary);
        }
    }
}

#[test]
fn dropout() {
    let dropout = Dropout::new("a", 0.4).unwrap();
    check("dropout", vec![trained(1, &[2, 3, 7])], |x| dropout.forward(&x[0], &training()).unwrap());
}

#[test]
fn layer_norm_with_trained_and_with_frozen_parameters() {
    let norm = |x: &[Tensor]| {
        LayerNorm::new("norm", x[1].clone(), x[2].clone(), 1e-5).unwrap().forward(&x[0], &training()).unwrap()
    };
    let (xs, parameter): (&[usize], &[usize]) = (&[2, 3, 7], &[7]);
    check("norm", vec![trained(1, xs), trained(2, parameter), trained(3, parameter)], norm);
    check("frozen norm", vec![trained(1, xs), frozen(2, parameter), frozen(3, parameter)], norm);
    check("trained bias", vec![frozen(1, xs), frozen(2, parameter), trained(3, parameter)], norm);
}

#[test]
fn cross_entropy() {
    for smoothing in [0.0, 0.3] {
        check("cross entropy", vec![trained(1, &[4, 19])], |x| {
            cross_entropy_sum(&x[0], &[0, 18, 7, 7], smoothing).unwrap()
        });
        check("head", vec![trained(1, &[4, 5])], |x| {
            let weight = constant(2, &[19, 5], x[0].dtype());
            let head = FrozenLinear::new("head", weight, None).unwrap();
            linear_cross_entropy_sum(&x[0], &head, &[0, 18, 7, 7], smoothing, &training()).unwrap()
        });
    }
}

#[test]
fn cross_entropy_without_rows_is_zero() {
    let none = Var::zeros((0, 5), DType::F64, &Device::Cpu).unwrap();
    let loss = cross_entropy_sum(none.as_tensor(), &[], 0.1).unwrap();
    assert_eq!(loss.to_scalar::<f64>().unwrap(), 0.0);
    assert!(loss.backward().is_ok());
}

#[test]
fn frozen_and_trainable_linear_layers() {
    for with_bias in [false, true] {
        check("frozen", vec![trained(1, &[2, 3, 5])], |x| {
            let dtype = x[0].dtype();
            let bias = with_bias.then(|| constant(3, &[4], DType::F32));
            let layer = FrozenLinear::new("frozen", constant(2, &[4, 5], dtype), bias).unwrap();
            layer.forward(&x[0], &training()).unwrap()
        });
    }
    check("trainable", vec![trained(1, &[2, 3, 5]), trained(2, &[4, 5]), trained(3, &[4])], |x| {
        let layer = TrainableLinear::new("trainable", x[1].clone(), Some(x[2].clone())).unwrap();
        layer.forward(&x[0], &training()).unwrap()
    });
}

#[test]
fn activations_in_f64_through_a_weight_that_is_packed_in_f32() {
    let layer = FrozenLinear::new("frozen", constant(2, &[4, 5], DType::F32), None).unwrap();
    let [exact, kernel] = [DType::F64, DType::F32].map(|dtype| {
        let xs = Var::from_tensor(&constant(1, &[3, 5], dtype)).unwrap();
        let ys = layer.forward(xs.as_tensor(), &training()).unwrap();
        assert_eq!(ys.dtype(), dtype);
        let gradients = loss(&ys).backward().unwrap();
        [list(&ys), list(gradients.get(&xs).unwrap())].concat()
    });
    assert!(exact.iter().zip(&kernel).all(|(exact, kernel)| (exact - kernel).abs() < 1e-5));
}

#[test]
fn lora_with_and_without_dropout_and_a_gradient_of_the_input() {
    for p in [0.0, 0.4] {
        let dropout = Dropout::new("base", p).unwrap();
        let layer = |x: &[Tensor]| {
            let dtype = x[0].dtype();
            let bias = Some(constant(5, &[4], DType::F32));
            let base = FrozenLinear::new("base", constant(4, &[4, 5], dtype), bias).unwrap();
            let lora = LoraWeights { a: &x[1], b: &x[2], scale: 1.5, dropout: &dropout };
            lora_linear(&x[0], &base, lora, &training()).unwrap()
        };
        check("lora", vec![trained(1, &[2, 3, 5]), trained(2, &[2, 5]), trained(3, &[4, 2])], layer);
        check("first layer", vec![frozen(1, &[2, 3, 5]), trained(2, &[2, 5]), trained(3, &[4, 2])], layer);
        check("frozen A", vec![trained(1, &[2, 3, 5]), frozen(2, &[2, 5]), trained(3, &[4, 2])], layer);
    }
}

#[test]
fn attention_with_masks_and_dropout() {
    for mask in [AttentionMask::Full, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 3 }] {
        for p in [0.0, 0.3] {
            let dropout = Dropout::new("probabilities", p).unwrap();
            let run = |x: &[Tensor]| attention(&x[0], &x[1], &x[2], 2, mask, &dropout, &training()).unwrap();
            let (queries, keys): (&[usize], &[usize]) = (&[2, 4, 6], &[2, 7, 6]);
            check("attention", vec![trained(1, queries), trained(2, keys), trained(3, keys)], run);
            check("frozen keys", vec![trained(1, queries), frozen(2, keys), trained(3, keys)], run);
        }
    }
}

const WIDTH: usize = 6;
const INNER: usize = 8;

/// A layer whose adapters are the tensors after the first.
fn layer_of(x: &[Tensor], norm_first: bool) -> TransformerLayer {
    let dtype = x[0].dtype();
    let linear = |number: u64, n_in: usize, n_out: usize| -> Arc<dyn LinearLayer> {
        let path = format!("layer{number}");
        let weight = constant(20 + number, &[n_out, n_in], dtype);
        let [a, b] = [2 * number - 1, 2 * number].map(|index| x[index as usize].clone());
        Arc::new(Adapted {
            base: FrozenLinear::new(&path, weight, Some(constant(30, &[n_out], DType::F32))).unwrap(),
            a,
            b,
            scale: 0.7,
            dropout: Dropout::new(&path, 0.2).unwrap(),
            known: true,
        })
    };
    let norm = |seed| {
        let weight = (constant(seed, &[WIDTH], dtype) + 1.5).unwrap();
        LayerNorm::new("norm", weight, constant(seed + 1, &[WIDTH], dtype), 1e-5).unwrap()
    };
    transformer_layer(2, (WIDTH, INNER), norm_first, linear, norm)
}

#[test]
fn a_whole_layer_of_a_transformer() {
    let mask = AttentionMask::CausalAfterPrefix { prefix: 2, first_query: 1 };
    for norm_first in [false, true] {
        let mut inputs = vec![trained(1, &[2, 4, WIDTH])];
        for index in 0..6u64 {
            let (n_in, n_out) = match index {
                4 => (WIDTH, INNER),
                5 => (INNER, WIDTH),
                _ => (WIDTH, WIDTH),
            };
            inputs.extend([trained(70 + index, &[2, n_in]), trained(80 + index, &[n_out, 2])]);
        }
        check("layer", inputs, |x| layer_of(x, norm_first).forward(&x[0], mask, &training()).unwrap());
    }
}

/// Two beams that fork from a prompt of two tokens.
#[test]
fn cached_attention_is_that_of_the_kernel() {
    let (heads, width, prefix) = (2, 6, 5);
    let contexts = |dtype: DType| {
        let image = [1, 2].map(|seed| constant(seed, &[1, prefix, width], dtype));
        let cache = KeyValueCache::new(&image[0], &image[1], heads, 8).unwrap();
        let mut rows = DecodingRows::new(1);
        let mut contexts = Vec::new();
        for (step, (parents, new)) in [(vec![0], 2), (vec![0, 0], 1), (vec![1, 0], 1)].into_iter().enumerate()
        {
            rows.reorder(&parents).unwrap();
            rows.extend(new);
            let tokens = |seed: u64| constant(10 * step as u64 + seed, &[parents.len(), new, width], dtype);
            cache.write(&tokens(3), &tokens(4), &rows).unwrap();
            contexts.extend(list(&cached_attention(&tokens(5), &cache, &rows).unwrap()));
        }
        contexts
    };
    let (fallback, kernel) = (contexts(DType::F64), contexts(DType::F32));
    assert_eq!(fallback.len(), kernel.len());
    for (fallback, kernel) in fallback.iter().zip(&kernel) {
        assert!((fallback - kernel).abs() < 1e-6, "kernel {kernel}, fallback {fallback}");
    }
}
