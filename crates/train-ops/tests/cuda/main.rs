//! Operations on an NVIDIA GPU, or on what stands in for one (`.ci/cuda-stand-in`), against the CPU: values, gradients, and no
//! gradient of anything that is frozen.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod adapters;
mod attention;
mod common;
mod decoding;
#[cfg(feature = "fused-cuda")]
mod graph;
mod layer;

use candle_core::{DType, Device, Tensor, Var};
use common::{Frozen, Input, ONE, Parameter, Trained, check, constant, gpu, list, training, values};
#[cfg(feature = "fused-cuda")]
use train_ops::top_logits;
use train_ops::{
    Activation, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer, TrainableLinear, copy_rows,
    cross_entropy_sum, linear_cross_entropy_sum, sample_key, select_rows,
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
    for columns in [24, 7] {
        let inputs: [Input<'_>; 1] = [(Trained, 1, &[2, 5, columns])];
        check("dropout", &inputs, ONE, |x| dropout.forward(&x[0], &training()).unwrap());
    }
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
    let sizes = [(35, [3, 8]), (2, [3, 5])];
    for (dtype, (count, shape)) in [DType::F32, DType::BF16].into_iter().flat_map(|t| sizes.map(|s| (t, s))) {
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

/// Some several times, some never; whole vectors or not.
#[test]
fn selected_rows() {
    for columns in [24, 7] {
        check("selected rows", &[(Trained, 1, &[7, columns])], ONE, |x| {
            let ids = Tensor::new(&[3u32, 0, 3, 6, 3], x[0].device()).unwrap();
            select_rows(&x[0], &ids).unwrap()
        });
    }
}

/// The threads of a block have a vector or an element each, then several. There is no kernel for more than 4096 features.
#[test]
fn layer_norms_frozen_and_trained() {
    for features in [7, 48, 301, 2112, 4104] {
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
        // The threads of a block have a vector or an element each, then several.
        for vocabulary in [19, 5003, 5008] {
            let last = vocabulary as u32 - 1;
            check("cross entropy", &[(Trained, 1, &[4, vocabulary])], ONE, |x| {
                cross_entropy_sum(&x[0], &[0, last, 7, 7], smoothing).unwrap()
            });
        }
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
