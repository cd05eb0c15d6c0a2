//! Operations on an NVIDIA GPU, or on what stands in for one (`.ci/cuda-stand-in`), against the CPU: values, gradients, and no
//! gradient of anything that is frozen.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor, Var};
use train_ops::{
    Activation, AdaptedLinear, AttentionMask, DecodingRows, Dropout, ForwardContext, FrozenLinear,
    KeyValueCache, LayerNorm, LinearLayer, LoraWeights, Result, TrainableLinear, TransformerLayer, attention,
    cached_attention, cached_cross_attention, cached_self_attention, cross_entropy_sum, cuda_device,
    linear_cross_entropy_sum, lora_linear, sample_key,
};

fn gpu() -> &'static Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| cuda_device(0).unwrap())
}

/// Fixed values in (-1, 1) without structure, that are the same in bf16.
fn values(seed: u64, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u64;
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values = Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap();
    values.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// A constant for an operation on tensors like `like`.
fn constant(seed: u64, shape: &[usize], like: &Tensor) -> Tensor {
    values(seed, shape).to_dtype(like.dtype()).unwrap().to_device(like.device()).unwrap()
}

fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 2, 0), sample_key(1, 2, 1)])
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Needs a gradient.
    Activation,
    /// A constant of the activations' type.
    Frozen,
    /// Trained, f32 whatever the activations are.
    Parameter,
}
use Kind::{Activation as Trained, Frozen, Parameter};

type Input<'a> = (Kind, u64, &'a [usize]);

fn list(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The result, and the gradients of what is trained, for a gradient of the result without structure. There must be no others.
fn run(
    name: &str,
    inputs: &[Input<'_>],
    dtype: DType,
    device: &Device,
    f: &impl Fn(&[Tensor]) -> Tensor,
) -> Vec<Vec<f64>> {
    let arguments: Vec<Tensor> = inputs
        .iter()
        .map(|(kind, seed, shape)| {
            let dtype = if *kind == Parameter { DType::F32 } else { dtype };
            let tensor = values(*seed, shape).to_dtype(dtype).unwrap().to_device(device).unwrap();
            if *kind == Frozen { tensor } else { Var::from_tensor(&tensor).unwrap().as_tensor().clone() }
        })
        .collect();
    let ys = f(&arguments);
    let dys = constant(99, ys.dims(), &ys);
    let gradients = (&ys * dys).unwrap().sum_all().unwrap().backward().unwrap();
    let mut found = vec![list(&ys)];
    for ((kind, ..), argument) in inputs.iter().zip(&arguments) {
        match gradients.get(argument) {
            Some(gradient) if *kind != Frozen => {
                assert_eq!(gradient.dtype(), argument.dtype(), "{name}");
                found.push(list(gradient));
            }
            None if *kind == Frozen => {}
            _ => panic!("{name}: a gradient is missing, or one of a frozen tensor is there"),
        }
    }
    found
}

/// The largest errors of one operation in f32 and in bf16, as shares of a tensor's norm.
const ONE: [f64; 2] = [1e-6, 1e-2];
/// Those of a layer: about 20 operations, and the CPU's approximation of the normal distribution.
const LAYER: [f64; 2] = [5e-5, 5e-2];

/// Compares the GPU in f32 and in bf16 with the CPU in f32.
fn check(name: &str, inputs: &[Input<'_>], bounds: [f64; 2], f: impl Fn(&[Tensor]) -> Tensor) {
    let expected = run(name, inputs, DType::F32, &Device::Cpu, &f);
    for (dtype, bound) in [DType::F32, DType::BF16].into_iter().zip(bounds) {
        let found = run(name, inputs, dtype, gpu(), &f);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "{name}, {dtype:?}, tensor {index}");
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
            let error = difference / norm(&mut expected.iter().copied());
            assert!(error < bound, "{name}, {dtype:?}, tensor {index}: error {error:e}");
        }
    }
}

#[test]
fn masks_of_dropout_are_those_of_the_cpu_to_the_last_bit() {
    let dropout = Dropout::new("a", 0.4).unwrap();
    for shape in [&[2, 3, 7][..], &[4, 33, 64], &[2, 8]] {
        let run = |device| {
            let xs = Var::from_tensor(&values(1, shape).to_device(device).unwrap()).unwrap();
            let ys = dropout.forward(xs.as_tensor(), &training()).unwrap();
            let gradients = ys.sum_all().unwrap().backward().unwrap();
            [list(&ys), list(gradients.get(&xs).unwrap())]
        };
        assert_eq!(run(gpu()), run(&Device::Cpu), "{shape:?}");
    }
    check("dropout", &[(Trained, 1, &[2, 5, 24])], ONE, |x| dropout.forward(&x[0], &training()).unwrap());
}

#[test]
fn activations() {
    for activation in [Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh, Activation::Silu] {
        for shape in [&[3, 7][..], &[2, 5, 64]] {
            check(&format!("{activation:?}"), &[(Trained, 1, shape)], ONE, |x| {
                activation.forward(&x[0]).unwrap()
            });
        }
    }
}

#[test]
fn layer_norms_frozen_and_trained() {
    for features in [7, 48] {
        let (xs, weight) = (&[2, 3, features][..], &[features][..]);
        let norm = |x: &[Tensor]| {
            let norm = LayerNorm::new("norm", x[1].clone(), x[2].clone(), 1e-5).unwrap();
            norm.forward(&x[0], &training()).unwrap()
        };
        check("frozen norm", &[(Trained, 1, xs), (Frozen, 2, weight), (Frozen, 3, weight)], ONE, norm);
        check("trained norm", &[(Trained, 1, xs), (Parameter, 2, weight), (Parameter, 3, weight)], ONE, norm);
    }
}

#[test]
fn cross_entropy_of_logits_and_of_a_head_in_chunks() {
    for smoothing in [0.0, 0.3] {
        check("cross entropy", &[(Trained, 1, &[4, 19])], ONE, |x| {
            cross_entropy_sum(&x[0], &[0, 18, 7, 7], smoothing).unwrap()
        });
        let targets: Vec<u32> = (0..300).map(|row| row % 19).collect();
        check("head", &[(Trained, 1, &[300, 8])], ONE, |x| {
            let bias = Some(constant(3, &[19], &x[0]));
            let head = FrozenLinear::new("head", constant(2, &[19, 8], &x[0]), bias).unwrap();
            linear_cross_entropy_sum(&x[0], &head, &targets, smoothing, &training()).unwrap()
        });
    }
}

#[test]
fn linear_layers_frozen_and_trained() {
    check("frozen", &[(Trained, 1, &[2, 3, 5])], ONE, |x| {
        let bias = Some(constant(3, &[4], &x[0]));
        let layer = FrozenLinear::new("frozen", constant(2, &[4, 5], &x[0]), bias).unwrap();
        layer.forward(&x[0], &training()).unwrap()
    });
    let inputs: [Input<'_>; 3] = [(Trained, 1, &[2, 3, 5]), (Parameter, 2, &[4, 5]), (Parameter, 3, &[4])];
    check("trainable", &inputs, ONE, |x| {
        let layer = TrainableLinear::new("trainable", x[1].clone(), Some(x[2].clone())).unwrap();
        layer.forward(&x[0], &training()).unwrap()
    });
}

#[test]
fn adapters_with_and_without_dropout_and_a_gradient_of_the_input() {
    for (n_in, n_out, rank) in [(5, 4, 2), (48, 64, 16)] {
        for p in [0.0, 0.4] {
            let dropout = Dropout::new("base", p).unwrap();
            let layer = |x: &[Tensor]| {
                let bias = Some(constant(5, &[n_out], &x[0]));
                let base = FrozenLinear::new("base", constant(4, &[n_out, n_in], &x[0]), bias).unwrap();
                let lora = LoraWeights { a: &x[1], b: &x[2], scale: 1.5, dropout: &dropout };
                lora_linear(&x[0], &base, lora, &training()).unwrap()
            };
            let (xs, a, b) = (&[2, 7, n_in][..], &[rank, n_in][..], &[n_out, rank][..]);
            check("adapter", &[(Trained, 1, xs), (Parameter, 2, a), (Parameter, 3, b)], ONE, layer);
            check("first layer", &[(Frozen, 1, xs), (Parameter, 2, a), (Parameter, 3, b)], ONE, layer);
        }
    }
}

#[test]
fn attention_with_masks_and_dropout() {
    for mask in [AttentionMask::Full, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 3 }] {
        for (p, width) in [(0.0, 16), (0.3, 16), (0.3, 128)] {
            let dropout = Dropout::new("probabilities", p).unwrap();
            let (queries, keys) = (&[2, 4, width][..], &[2, 7, width][..]);
            check("attention", &[(Trained, 1, queries), (Trained, 2, keys), (Trained, 3, keys)], ONE, |x| {
                attention(&x[0], &x[1], &x[2], 2, mask, &dropout, &training()).unwrap()
            });
            check("frozen keys", &[(Trained, 1, queries), (Frozen, 2, keys), (Trained, 3, keys)], ONE, |x| {
                attention(&x[0], &x[1], &x[2], 2, mask, &dropout, &training()).unwrap()
            });
        }
    }
}

/// Two beams of each of two pictures, which fork, and swap, over keys in slots.
#[test]
fn attention_of_decoding_over_image_text_and_both() {
    let (heads, width, prefix) = (2, 32, 5);
    for kind in [cached_attention, cached_self_attention, cached_cross_attention] {
        let contexts = |dtype: DType, device: &Device| {
            let tensor = |seed: u64, shape: &[usize]| {
                values(seed, shape).to_dtype(dtype).unwrap().to_device(device).unwrap()
            };
            let image = [1, 2].map(|seed| tensor(seed, &[2, prefix, width]));
            let cache = KeyValueCache::new(&image[0], &image[1], heads, 16).unwrap();
            let mut rows = DecodingRows::new(2);
            let mut contexts = Vec::new();
            let steps = [(vec![0, 1], 2), (vec![0, 0, 1, 1], 1), (vec![1, 0, 2, 2], 1)];
            for (step, (parents, new)) in steps.into_iter().enumerate() {
                rows.reorder(&parents).unwrap();
                rows.extend(new);
                let tokens = |seed: u64| tensor(10 * step as u64 + seed, &[parents.len(), new, width]);
                cache.write(&tokens(3), &tokens(4), &rows).unwrap();
                contexts.extend(list(&kind(&tokens(5), &cache, &rows).unwrap()));
            }
            contexts
        };
        let expected = contexts(DType::F32, &Device::Cpu);
        for (dtype, bound) in [(DType::F32, 1e-6), (DType::BF16, 1e-2)] {
            let found = contexts(dtype, gpu());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < bound, "{dtype:?}: {found}, {expected}");
            }
        }
    }
}

/// A frozen layer with an adapter.
#[derive(Debug)]
struct Adapted {
    base: FrozenLinear,
    a: Tensor,
    b: Tensor,
    dropout: Dropout,
}

impl Adapted {
    fn lora(&self) -> LoraWeights<'_> {
        // Small, so that attention does not choose a single key, which the rounding of bf16 would change.
        LoraWeights { a: &self.a, b: &self.b, scale: 0.05, dropout: &self.dropout }
    }
}

impl LinearLayer for Adapted {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        lora_linear(xs, &self.base, self.lora(), ctx)
    }

    fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
        AdaptedLinear::new(&self.base, Some(self.lora())).map(Some)
    }

    fn parameters(&self) -> Vec<Tensor> {
        vec![self.a.clone(), self.b.clone()]
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}

const WIDTH: usize = 32;
const INNER: usize = 48;

/// A layer whose adapters are the tensors after the first.
fn transformer_layer(x: &[Tensor], norm_first: bool) -> TransformerLayer {
    let linear = |index: usize, n_in: usize, n_out: usize| -> Arc<dyn LinearLayer> {
        let path = format!("layer{index}");
        let weight = (constant(20 + index as u64, &[n_out, n_in], &x[0]) * 0.25).unwrap();
        Arc::new(Adapted {
            base: FrozenLinear::new(&path, weight, Some(constant(30, &[n_out], &x[0]))).unwrap(),
            a: x[1 + 2 * index].clone(),
            b: x[2 + 2 * index].clone(),
            dropout: Dropout::new(&path, 0.2).unwrap(),
        })
    };
    let norm = |seed| {
        let weight = (constant(seed, &[WIDTH], &x[0]) + 1.5).unwrap();
        LayerNorm::new("norm", weight, constant(seed + 1, &[WIDTH], &x[0]), 1e-5).unwrap()
    };
    let dropout = |path| Dropout::new(path, 0.15).unwrap();
    TransformerLayer {
        heads: 2,
        norm_first,
        query: linear(0, WIDTH, WIDTH),
        key: linear(1, WIDTH, WIDTH),
        value: linear(2, WIDTH, WIDTH),
        attention_dropout: dropout("probabilities"),
        attention_output: linear(3, WIDTH, WIDTH),
        attention_output_dropout: dropout("attention"),
        attention_norm: norm(50),
        intermediate: linear(4, WIDTH, INNER),
        activation: Activation::Gelu,
        output: linear(5, INNER, WIDTH),
        output_dropout: dropout("output"),
        output_norm: norm(60),
        recompute: false,
    }
}

#[test]
fn a_whole_layer_of_a_transformer() {
    for first_query in [0, 1] {
        let mask = AttentionMask::CausalAfterPrefix { prefix: 2, first_query };
        for norm_first in [false, true] {
            let shapes: Vec<[usize; 2]> = (0..6usize)
                .flat_map(|index| {
                    let (n_in, n_out) = match index {
                        4 => (WIDTH, INNER),
                        5 => (INNER, WIDTH),
                        _ => (WIDTH, WIDTH),
                    };
                    [[8, n_in], [n_out, 8]]
                })
                .collect();
            let mut inputs: Vec<Input<'_>> = vec![(Trained, 1, &[2, 6, WIDTH])];
            inputs.extend((70..).zip(&shapes).map(|(seed, shape)| (Parameter, seed, &shape[..])));
            let name = format!("layer, norm first: {norm_first}, first query {first_query}");
            check(&name, &inputs, LAYER, |x| {
                transformer_layer(x, norm_first).forward(&x[0], mask, &training()).unwrap()
            });
        }
    }
}
