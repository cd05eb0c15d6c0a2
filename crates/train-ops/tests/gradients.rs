//! Every operation's backward pass against finite differences, and adapters against candle's own composition.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use train_ops::{
    Activation, AttentionMask, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer, LoraWeights,
    NO_TARGET, RotaryLayout, TrainableLinear, attention, cross_entropy_sum, linear_cross_entropy_sum,
    lora_linear, rms_norm, rotary_embedding, sample_key, softmax_last_dim,
};

/// Fixed values in (-1, 1) without structure.
fn values(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    let count = shape.iter().product();
    Var::from_vec(values(seed, count), shape, &Device::Cpu).unwrap()
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    var(seed, shape).as_detached_tensor()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// `Σ weights * ys`, summed in f64 so that differences of it keep their digits.
fn weighted(ys: &Tensor, weights: &[f32]) -> f64 {
    list(ys).iter().zip(weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
}

/// Compares the gradient in each of `inputs` with central differences of step `h`.
///
/// The function's values carry f32 rounding, about 1e-7 each, so differences are good to some 1e-7 / h, and to h^2 for
/// the curvature: 1e-3 with h = 1e-2 for values near 1.
fn agrees_with_differences(name: &str, inputs: &[&Var], f: impl Fn() -> Tensor) {
    let h = 1e-2f32;
    let ys = f();
    let weights = values(99, ys.elem_count());
    let projection = Tensor::from_vec(weights.clone(), ys.shape(), &Device::Cpu).unwrap();
    let grads = (ys * projection).unwrap().sum_all().unwrap().backward().unwrap();
    for (index, input) in inputs.iter().enumerate() {
        let gradient =
            list(grads.get(input).unwrap_or_else(|| panic!("{name}: input {index} has no gradient")));
        assert!(gradient.iter().any(|g| *g != 0.0), "{name}: the gradient of input {index} is zero");
        let original = list(input);
        for element in 0..original.len() {
            let at = |value: f32| {
                let mut moved = original.clone();
                moved[element] = value;
                input.set(&Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap()).unwrap();
                weighted(&f(), &weights)
            };
            let (up, down) = (original[element] + h, original[element] - h);
            let difference = (at(up) - at(down)) / f64::from(up - down);
            let gradient = f64::from(gradient[element]);
            assert!(
                (gradient - difference).abs() < 1e-3 * difference.abs().max(1.0),
                "{name}: input {index}, element {element}: gradient {gradient}, difference {difference}"
            );
        }
        input.set(&Tensor::from_vec(original, input.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 2, 0), sample_key(1, 2, 1)])
}

#[test]
fn softmax() {
    let xs = var(1, &[2, 3, 19]);
    agrees_with_differences("softmax", &[&xs], || softmax_last_dim(xs.as_tensor()).unwrap());
}

#[test]
fn root_mean_square_norm() {
    let (xs, weight) = (var(1, &[2, 3, 19]), var(2, &[19]));
    agrees_with_differences("rms_norm", &[&xs, &weight], || rms_norm(&xs, &weight, 1e-5).unwrap());
}

#[test]
fn rotary_position_embedding() {
    let (xs, cos, sin) = (var(1, &[2, 3, 4, 6]), tensor(2, &[5, 3]), tensor(3, &[5, 3]));
    for layout in [RotaryLayout::Halves, RotaryLayout::Interleaved, RotaryLayout::HalvesOfTokens] {
        agrees_with_differences("rotary", &[&xs], || rotary_embedding(&xs, &cos, &sin, layout).unwrap());
    }
}

#[test]
fn activations() {
    let xs = var(1, &[3, 7]);
    for activation in [Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh, Activation::Silu] {
        agrees_with_differences("activation", &[&xs], || activation.forward(xs.as_tensor()).unwrap());
    }
}

#[test]
fn layer_norm_in_input_weight_and_bias() {
    for features in [5, 16, 37] {
        let (xs, weight, bias) = (var(1, &[2, 3, features]), var(2, &[features]), var(3, &[features]));
        let norm =
            LayerNorm::new("norm", weight.as_tensor().clone(), bias.as_tensor().clone(), 1e-5).unwrap();
        agrees_with_differences("layer_norm", &[&xs, &weight, &bias], || {
            norm.forward(xs.as_tensor(), &training()).unwrap()
        });
    }
}

#[test]
fn cross_entropy() {
    let logits = var(1, &[4, 19]);
    agrees_with_differences("cross_entropy", &[&logits], || {
        cross_entropy_sum(logits.as_tensor(), &[0, 18, 7, 7], 0.0).unwrap()
    });
}

#[test]
fn cross_entropy_with_smoothed_labels() {
    let logits = var(1, &[4, 19]);
    agrees_with_differences("cross_entropy", &[&logits], || {
        cross_entropy_sum(logits.as_tensor(), &[0, 18, 7, 7], 0.3).unwrap()
    });
    // torch 2.11: F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum") and its gradient.
    let logits = Var::new(&[[1f32, 2., 3.], [0.5, -1., 0.]], &Device::Cpu).unwrap();
    let loss = cross_entropy_sum(logits.as_tensor(), &[2, 0], 0.1).unwrap();
    let gradient = list(loss.backward().unwrap().get(&logits).unwrap());
    assert!((loss.to_scalar::<f32>().unwrap() - 1.178_403_3).abs() < 1e-6, "{loss}");
    for (got, expected) in gradient.iter().zip([
        0.056_697_246,
        0.211_395_16,
        -0.268_092_33,
        -0.386_783_96,
        0.088_618_29,
        0.298_165_62,
    ]) {
        assert!((got - expected).abs() < 1e-6, "{gradient:?}");
    }
    assert!(cross_entropy_sum(logits.as_tensor(), &[2, 0], 1.0).is_err());
}

#[test]
fn a_head_with_its_loss_is_the_head_and_then_the_loss() {
    for label_smoothing in [0.0, 0.2] {
        let ctx = training();
        // More rows than the fused operation has logits of at a time.
        let (xs, targets) = (var(1, &[70, 5]), (0..70).map(|row| row % 19).collect::<Vec<u32>>());
        let head = FrozenLinear::new("head", tensor(2, &[19, 5]), Some(tensor(3, &[19]))).unwrap();
        let fused = linear_cross_entropy_sum(xs.as_tensor(), &head, &targets, label_smoothing, &ctx).unwrap();
        let logits = head.forward(xs.as_tensor(), &ctx).unwrap();
        let plain = cross_entropy_sum(&logits, &targets, label_smoothing).unwrap();
        let [one, other] = [&fused, &plain].map(|loss| loss.to_scalar::<f32>().unwrap());
        assert!((one - other).abs() < 1e-6 * other, "{one} and {other}");
        let [fused, plain] = [fused, plain].map(|loss| list(loss.backward().unwrap().get(&xs).unwrap()));
        for (fused, plain) in fused.iter().zip(&plain) {
            assert!((fused - plain).abs() < 1e-6, "{fused} and {plain}");
        }
    }
}

#[test]
fn rows_without_a_target_have_no_loss_and_no_gradient() {
    let ctx = training();
    let head = FrozenLinear::new("head", tensor(2, &[19, 5]), Some(tensor(3, &[19]))).unwrap();
    // f64 has no kernel.
    for (dtype, with_head) in [(DType::F32, true), (DType::F32, false), (DType::F64, false)] {
        let loss = |xs: &Var, targets: &[u32]| {
            let loss = if with_head {
                linear_cross_entropy_sum(xs.as_tensor(), &head, targets, 0.1, &ctx)
            } else {
                cross_entropy_sum(xs.as_tensor(), targets, 0.1)
            };
            let loss = loss.unwrap();
            let gradient = loss.backward().unwrap().get(xs).unwrap().to_dtype(DType::F32).unwrap();
            let rows = gradient.to_vec2::<f32>().unwrap();
            (loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap(), rows)
        };
        let xs = tensor(1, &[6, 5]).to_dtype(dtype).unwrap();
        let of_some = xs.index_select(&Tensor::new(&[0u32, 2, 4], xs.device()).unwrap(), 0).unwrap();
        let (xs, of_some) = (Var::from_tensor(&xs).unwrap(), Var::from_tensor(&of_some).unwrap());
        let targets = if with_head { [4, 18, 0] } else { [4, 2, 0] };
        let padded = targets.map(|target| [target, NO_TARGET]).concat();
        let ((all, gradients), (expected, gradients_of_some)) =
            (loss(&xs, &padded), loss(&of_some, &targets));
        assert!((all - expected).abs() < 1e-6 * expected, "{dtype:?}: {all} and {expected}");
        for (row, gradient) in gradients.iter().enumerate() {
            match row % 2 {
                0 => assert_eq!(gradient, &gradients_of_some[row / 2], "{dtype:?}, row {row}"),
                _ => assert_eq!(gradient, &[0.0; 5], "{dtype:?}, row {row}"),
            }
        }
    }
}

#[test]
fn linear_layers() {
    let (xs, weight, bias) = (var(1, &[2, 3, 5]), var(2, &[4, 5]), var(3, &[4]));
    let frozen =
        FrozenLinear::new("frozen", weight.as_detached_tensor(), Some(bias.as_detached_tensor())).unwrap();
    agrees_with_differences("frozen", &[&xs], || frozen.forward(xs.as_tensor(), &training()).unwrap());
    let trainable =
        TrainableLinear::new("trainable", weight.as_tensor().clone(), Some(bias.as_tensor().clone()))
            .unwrap();
    agrees_with_differences("trainable", &[&xs, &weight, &bias], || {
        trainable.forward(xs.as_tensor(), &training()).unwrap()
    });
}

#[test]
fn lora_linear_with_and_without_dropout() {
    let (xs, a, b) = (var(1, &[2, 3, 5]), var(2, &[2, 5]), var(3, &[4, 2]));
    let base = FrozenLinear::new("base", tensor(4, &[4, 5]), Some(tensor(5, &[4]))).unwrap();
    for p in [0.0, 0.4] {
        let dropout = Dropout::new("base", p).unwrap();
        agrees_with_differences("lora_linear", &[&xs, &a, &b], || {
            let lora = LoraWeights { a: a.as_tensor(), b: b.as_tensor(), scale: 1.5, dropout: &dropout };
            lora_linear(xs.as_tensor(), &base, lora, &training()).unwrap()
        });
    }
}

#[test]
fn attention_with_the_mask_of_git_and_dropout() {
    let (q, k, v) = (var(1, &[2, 4, 6]), var(2, &[2, 7, 6]), var(3, &[2, 7, 6]));
    let mask = AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 3 };
    for p in [0.0, 0.3] {
        let dropout = Dropout::new("probabilities", p).unwrap();
        agrees_with_differences("attention", &[&q, &k, &v], || {
            attention(q.as_tensor(), k.as_tensor(), v.as_tensor(), 2, mask, &dropout, &training()).unwrap()
        });
    }
}

/// The operation that `lora_linear` fuses, made of candle's operations.
fn composed(
    xs: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    dropout: &Dropout,
) -> Tensor {
    let dropped = dropout.forward(xs, &training()).unwrap();
    let delta = dropped.broadcast_matmul(&a.t().unwrap()).unwrap().broadcast_matmul(&b.t().unwrap()).unwrap();
    let base = xs.broadcast_matmul(&w.t().unwrap()).unwrap().broadcast_add(bias).unwrap();
    (base + (delta * scale).unwrap()).unwrap()
}

#[test]
fn lora_linear_is_the_composition_of_its_parts_and_computes_no_gradient_of_frozen_weights() {
    for (rows, in_features, out_features, rank) in
        [(1, 1, 1, 1), (3, 7, 5, 2), (17, 33, 64, 8), (40, 64, 31, 16)]
    {
        let (xs, a, b) =
            (var(1, &[2, rows, in_features]), var(2, &[rank, in_features]), var(3, &[out_features, rank]));
        let (w, bias) = (tensor(4, &[out_features, in_features]), tensor(5, &[out_features]));
        let base = FrozenLinear::new("base", w.clone(), Some(bias.clone())).unwrap();
        let dropout = Dropout::new("base", 0.3).unwrap();
        let lora = LoraWeights { a: a.as_tensor(), b: b.as_tensor(), scale: 0.7, dropout: &dropout };
        let own = lora_linear(xs.as_tensor(), &base, lora, &training()).unwrap();
        let plain = composed(xs.as_tensor(), &w, &bias, a.as_tensor(), b.as_tensor(), 0.7, &dropout);
        let close = |name: &str, own: &Tensor, plain: &Tensor| {
            let largest = list(plain).iter().fold(1f32, |m, x| m.max(x.abs()));
            for (own, plain) in list(own).iter().zip(list(plain)) {
                assert!((own - plain).abs() < 2e-6 * largest, "{name}: {own} and {plain}");
            }
        };
        close("output", &own, &plain);
        let own = own.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let plain = plain.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, input) in [("xs", &xs), ("a", &a), ("b", &b)] {
            close(name, own.get(input).unwrap(), plain.get(input).unwrap());
        }
        // Only the gradients of the three inputs are in the store: no gradient of a frozen weight was kept.
        assert_eq!(own.get_ids().count(), 3);
    }
}

#[test]
fn a_frozen_input_gets_no_gradient_and_the_adapter_its_own() {
    let (xs, a, b) = (tensor(1, &[2, 3, 5]), var(2, &[2, 5]), var(3, &[4, 2]));
    let base = FrozenLinear::new("base", tensor(4, &[4, 5]), None).unwrap();
    let dropout = Dropout::new("base", 0.0).unwrap();
    let lora = LoraWeights { a: a.as_tensor(), b: b.as_tensor(), scale: 1.0, dropout: &dropout };
    let grads = lora_linear(&xs, &base, lora, &training()).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&xs).is_none() && grads.get(&a).is_some() && grads.get(&b).is_some());
}

#[test]
fn bf16_rounds_weights_and_activations_and_sums_in_f32() {
    let round = |tensor: &Tensor| tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let (weight, xs) = (tensor(1, &[6, 9]), tensor(2, &[4, 9]));
    let ys = |weight: Tensor, xs: &Tensor| {
        let layer = FrozenLinear::new("layer", weight, None).unwrap();
        list(&layer.forward(xs, &ForwardContext::inference()).unwrap())
    };
    let bf16 = ys(weight.to_dtype(DType::BF16).unwrap(), &xs);
    let rounded = ys(round(&weight), &round(&xs));
    for (bf16, rounded) in bf16.iter().zip(&rounded) {
        assert!((bf16 - rounded).abs() < 1e-6, "{bf16}, not {rounded}");
    }
    assert_ne!(rounded, ys(weight, &xs), "nothing was rounded");
}

#[test]
fn candles_layer_norm_still_severs_gradients() {
    // The reason for our own operations. If this fails, candle has been fixed, and the comments about it are
    // out of date.
    let xs = var(1, &[2, 8]);
    let norm = candle_nn::LayerNorm::new(tensor(2, &[8]), tensor(3, &[8]), 1e-5);
    let ys = candle_nn::Module::forward(&norm, xs.as_tensor()).unwrap();
    assert!(ys.sum_all().unwrap().backward().unwrap().get(&xs).is_none());
}
