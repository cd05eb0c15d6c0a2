//! Operations on an NVIDIA GPU, or on what stands in for one (`.ci/cuda-stand-in`), against the CPU: values, gradients, and no
//! gradient of anything that is frozen.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[cfg(feature = "fused-cuda")]
mod graph;
mod layer;

use candle_core::{DType, Device, Tensor, Var};
use common::{Frozen, Input, ONE, Parameter, Trained, check, constant, gpu, list, training, values};
use train_ops::{
    Activation, AttentionMask, DecodingRows, Dropout, ForwardContext, FrozenLinear, KeyLengths,
    KeyValueCache, LayerNorm, LinearLayer, LoraWeights, TrainableLinear, attention, cached_attention,
    cached_cross_attention, cached_self_attention, copy_rows, cross_entropy_sum, linear_cross_entropy_sum,
    lora_linear, padded_attention, sample_key, top_logits,
};

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
fn masks_of_several_places_and_passes_are_those_of_the_cpu() {
    let places = ["a", "b", "c"].map(|path| Dropout::new(path, 0.4).unwrap());
    let xs = values(1, &[2, 3, 16]);
    // Places that are known or new, and passes of other samples, also of another number.
    for (step, used) in [&[0, 1][..], &[1, 0, 2], &[2, 1, 0, 2], &[0]].into_iter().enumerate() {
        let keys: Vec<u64> =
            (0..1 + step as u64 % 2).map(|sample| sample_key(7, step as u64, sample)).collect();
        let masks = |device: &Device| {
            let xs = xs.to_device(device).unwrap();
            let ctx = ForwardContext::training(keys.clone());
            let masks = used.iter().map(|place| list(&places[*place].forward(&xs, &ctx).unwrap()));
            masks.collect::<Vec<_>>()
        };
        assert_eq!(masks(gpu()), masks(&Device::Cpu), "pass {step}");
    }
}

/// More rows than a launch copies, of both types, and into memory that does not begin at a multiple of 16 bytes.
#[test]
fn copied_rows_are_those_of_the_cpu() {
    for (dtype, count, shape) in
        [(DType::F32, 35, [3, 8]), (DType::BF16, 35, [3, 8]), (DType::BF16, 2, [3, 5])]
    {
        let run = |device: &Device| {
            let row = |seed| values(seed, &shape).to_dtype(dtype).unwrap().to_device(device).unwrap();
            let rows: Vec<Tensor> = (0..count as u64).map(row).collect();
            let all = Tensor::zeros((count + 1, shape[0], shape[1]), DType::F32, device).unwrap();
            for to in [all.narrow(0, 0, count).unwrap(), all.narrow(0, 1, count).unwrap()] {
                copy_rows(&to, &rows).unwrap();
            }
            list(&all)
        };
        assert_eq!(run(gpu()), run(&Device::Cpu), "{dtype:?} {shape:?}");
    }
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
        for (p, width) in [(0.0, 16), (0.3, 16), (0.3, 24), (0.0, 72), (0.3, 128)] {
            let dropout = Dropout::new("probabilities", p).unwrap();
            let (queries, keys) = (&[2, 4, width][..], &[2, 7, width][..]);
            check("attention", &[(Trained, 1, queries), (Trained, 2, keys), (Trained, 3, keys)], ONE, |x| {
                attention(&x[0], &x[1], &x[2], 2, mask, &dropout, &training()).unwrap()
            });
            // Two samples of 7 and 4 keys.
            let lengths = KeyLengths::new([7, 4]);
            check(
                "padded keys",
                &[(Trained, 1, queries), (Trained, 2, keys), (Trained, 3, keys)],
                ONE,
                |x| {
                    let inputs = [&x[0], &x[1], &x[2]];
                    padded_attention(inputs, 2, mask, Some(&lengths), &dropout, &training()).unwrap()
                },
            );
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

/// Rows with equal logits, and rows of a part of a tensor.
#[test]
#[cfg(feature = "fused-cuda")]
fn the_largest_logits_are_those_of_a_sorted_row() {
    for dtype in [DType::F32, DType::BF16] {
        // Without negative zeros, which are equal to zeros.
        let logits = ((values(1, &[4, 700]) * 8.0).unwrap().round().unwrap() + 0.0).unwrap();
        let on_gpu = logits.to_dtype(dtype).unwrap().to_device(gpu()).unwrap();
        for (first, rows, count) in [(0, 4, 9), (1, 3, 1), (3, 1, 700)] {
            let found = top_logits(&on_gpu.narrow(0, first, rows).unwrap(), count).unwrap().unwrap();
            for (row, logits) in logits.to_vec2::<f32>().unwrap()[first..][..rows].iter().enumerate() {
                let mut ids: Vec<u32> = (0..700).collect();
                ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
                assert!(found.ids[row * count..][..count] == ids[..count], "{dtype:?}, row {row}");
                let largest = ids[..count].iter().map(|id| logits[*id as usize]);
                assert_eq!(found.logits[row * count..][..count], largest.collect::<Vec<_>>());
                let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
                assert!((f64::from(found.log_sums[row]) - sum.ln()).abs() < 1e-5);
            }
        }
        assert!(top_logits(&on_gpu, 701).is_err());
    }
    assert!(top_logits(&values(1, &[2, 3]), 1).unwrap().is_none(), "rows on the host are whole");
}
