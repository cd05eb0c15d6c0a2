//! Layers and operations against candle-nn's: the same values, and gradients that agree with finite differences.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, Var};
use train_ops::sample_key;
use trainable_nn::attention::{AttnMask, flash_attn};
use trainable_nn::kv_cache::{ConcatKvCache, KvCache, RotatingKvCache};
use trainable_nn::{Activation, conv, ops, rotary_emb};

fn values(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values(seed, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Values within 1e-5 of the expected ones.
fn equal(name: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims(), "{name}");
    for (got, expected) in list(got).iter().zip(list(expected)) {
        assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{name}: {got}, not {expected}");
    }
}

/// Compares the gradient in each input with central differences.
fn differences(name: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let h = 1e-2f32;
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let of = |variables: &[Var]| {
        f(&variables.iter().map(|variable| variable.as_tensor().clone()).collect::<Vec<_>>()).unwrap()
    };
    let ys = of(&variables);
    let weights = values(99, ys.elem_count());
    let projection = Tensor::from_slice(&weights, ys.shape(), &Device::Cpu).unwrap();
    let gradients = (ys * projection).unwrap().sum_all().unwrap().backward().unwrap();
    let at = |variables: &[Var]| {
        list(&of(variables)).iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum::<f64>()
    };
    for (index, variable) in variables.iter().enumerate() {
        let gradient =
            gradients.get(variable).unwrap_or_else(|| panic!("{name}: input {index} has no gradient"));
        let original = list(variable);
        for (element, gradient) in list(gradient).into_iter().enumerate() {
            let moved = |by: f32| {
                let mut values = original.clone();
                values[element] += by;
                variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                at(&variables)
            };
            let difference = (moved(h) - moved(-h)) / f64::from(2.0 * h);
            assert!(
                (f64::from(gradient) - difference).abs() < 2e-3 * difference.abs().max(1.0),
                "{name}: input {index}, element {element}: gradient {gradient}, difference {difference}"
            );
        }
        variable.set(&Tensor::from_vec(original, variable.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

#[test]
fn activations() {
    // Away from the points at which piecewise functions have no derivative.
    let xs = (tensor(1, &[3, 8]) * 2.0).unwrap().affine(1.0, 0.013).unwrap();
    for name in [
        r#""gelu""#,
        r#""gelu_new""#,
        r#""gelu_pytorch_tanh""#,
        r#""relu""#,
        r#""relu2""#,
        r#""relu6""#,
        r#""silu""#,
        r#""sigmoid""#,
        r#""hardsigmoid""#,
        r#""swiglu""#,
        r#""swish""#,
        r#""mish""#,
        r#""hardswish""#,
        r#"{"elu": 0.7}"#,
        r#"{"leakyrelu": 0.1}"#,
    ] {
        let activation: Activation = serde_json::from_str(name).unwrap();
        let original: candle_nn::Activation = serde_json::from_str(name).unwrap();
        equal(name, &activation.forward(&xs).unwrap(), &original.forward(&xs).unwrap());
        differences(name, std::slice::from_ref(&xs), |x| activation.forward(&x[0]));
        assert_eq!(serde_json::to_string(&activation).unwrap(), serde_json::to_string(&original).unwrap());
    }
}

#[test]
fn softmaxes() {
    let xs = (tensor(1, &[2, 5, 7]) * 3.0).unwrap();
    for dim in 0..3 {
        let expected = candle_nn::ops::softmax(&xs, dim).unwrap();
        equal("softmax", &ops::softmax(&xs, dim).unwrap(), &expected);
        differences("softmax", std::slice::from_ref(&xs), |x| ops::softmax(&x[0], dim));
        let expected = candle_nn::ops::log_softmax(&xs, dim).unwrap();
        equal("log_softmax", &ops::log_softmax(&xs, dim).unwrap(), &expected);
        differences("log_softmax", std::slice::from_ref(&xs), |x| ops::log_softmax(&x[0], dim));
    }
    equal("last", &ops::softmax_last_dim(&xs).unwrap(), &candle_nn::ops::softmax_last_dim(&xs).unwrap());
}

#[test]
fn norms() {
    let (xs, weight, bias) = (tensor(1, &[2, 3, 8]), tensor(2, &[8]), tensor(3, &[8]));
    let inputs = [xs.clone(), weight.clone(), bias.clone()];
    let expected = candle_nn::ops::layer_norm(&xs, &weight, &bias, 1e-5).unwrap();
    equal("layer_norm", &ops::layer_norm(&xs, &weight, &bias, 1e-5).unwrap(), &expected);
    differences("layer_norm", &inputs, |x| ops::layer_norm(&x[0], &x[1], &x[2], 1e-5));
    let expected = candle_nn::ops::rms_norm(&xs, &weight, 1e-5).unwrap();
    equal("rms_norm", &ops::rms_norm(&xs, &weight, 1e-5).unwrap(), &expected);
    differences("rms_norm", &inputs[..2], |x| ops::rms_norm(&x[0], &x[1], 1e-5));

    let mine = trainable_nn::LayerNorm::new_no_bias(weight.clone(), 1e-5);
    let original = candle_nn::LayerNorm::new_no_bias(weight.clone(), 1e-5);
    equal("no bias", &mine.forward(&xs).unwrap(), &original.forward(&xs).unwrap());
    // A tensor whose elements are not in order.
    let turned = xs.transpose(0, 1).unwrap();
    equal("turned", &mine.forward(&turned).unwrap(), &original.forward(&turned).unwrap());
}

#[test]
fn norms_of_short_types_are_computed_in_f32() {
    let (xs, weight, bias) = (tensor(1, &[3, 64]), tensor(2, &[64]), tensor(3, &[64]));
    for dtype in [DType::F16, DType::BF16] {
        let [x, w, b] = [&xs, &weight, &bias].map(|tensor| tensor.to_dtype(dtype).unwrap());
        let close = |name: &str, got: Tensor, expected: Tensor| {
            assert_eq!(got.dtype(), dtype);
            for (got, expected) in list(&got).iter().zip(list(&expected)) {
                assert!(
                    (got - expected).abs() <= 0.02 * expected.abs().max(1.0),
                    "{name}: {got}, not {expected}"
                );
            }
        };
        let mine = trainable_nn::LayerNorm::new(w.clone(), b.clone(), 1e-5).forward(&x).unwrap();
        close("layer", mine, candle_nn::LayerNorm::new(w.clone(), b.clone(), 1e-5).forward(&x).unwrap());
        let mine = trainable_nn::RmsNorm::new(w.clone(), 1e-5).forward(&x).unwrap();
        close("rms", mine, candle_nn::RmsNorm::new(w.clone(), 1e-5).forward(&x).unwrap());
        close("softmax", ops::softmax_last_dim(&x).unwrap(), candle_nn::ops::softmax_last_dim(&x).unwrap());
    }
}

#[test]
fn rotary_embeddings() {
    let (xs, cos, sin) = (tensor(1, &[2, 3, 4, 6]), tensor(2, &[4, 3]), tensor(3, &[4, 3]));
    let expected = candle_nn::rotary_emb::rope(&xs, &cos, &sin).unwrap();
    equal("rope", &rotary_emb::rope(&xs, &cos, &sin).unwrap(), &expected);
    differences("rope", std::slice::from_ref(&xs), |x| rotary_emb::rope(&x[0], &cos, &sin));
    let expected = candle_nn::rotary_emb::rope_i(&xs, &cos, &sin).unwrap();
    equal("rope_i", &rotary_emb::rope_i(&xs, &cos, &sin).unwrap(), &expected);
    differences("rope_i", std::slice::from_ref(&xs), |x| rotary_emb::rope_i(&x[0], &cos, &sin));

    // Tokens come before heads, and each sequence has angles of its own.
    let (thd, cos, sin) = (tensor(1, &[2, 4, 3, 6]), tensor(2, &[2, 4, 3]), tensor(3, &[2, 4, 3]));
    let expected = candle_nn::rotary_emb::rope_thd(&thd, &cos, &sin).unwrap();
    equal("rope_thd", &rotary_emb::rope_thd(&thd, &cos, &sin).unwrap(), &expected);
    differences("rope_thd", &[thd], |x| rotary_emb::rope_thd(&x[0], &cos, &sin));
    let expected = candle_nn::rotary_emb::rope(&xs, &cos, &sin).unwrap();
    equal("own angles", &rotary_emb::rope(&xs, &cos, &sin).unwrap(), &expected);
    assert!(rotary_emb::rope(&xs, &cos.narrow(1, 0, 3).unwrap(), &sin).is_err());
}

#[test]
fn linear_layers_and_embeddings() {
    let (weight, bias, xs) = (tensor(1, &[5, 4]), tensor(2, &[5]), tensor(3, &[2, 3, 4]));
    let mine = trainable_nn::Linear::new(weight.clone(), Some(bias.clone()));
    let original = candle_nn::Linear::new(weight.clone(), Some(bias.clone()));
    equal("linear", &mine.forward(&xs).unwrap(), &original.forward(&xs).unwrap());
    differences("linear", &[xs.clone(), weight.clone(), bias], |x| {
        trainable_nn::Linear::new(x[1].clone(), Some(x[2].clone())).forward(&x[0])
    });
    differences("frozen linear", &[xs], |x| mine.forward(&x[0]));

    let ids = Tensor::new(&[[0u32, 4], [1, 0]], &Device::Cpu).unwrap();
    let mine = trainable_nn::Embedding::new(weight.clone(), 4);
    let original = candle_nn::Embedding::new(weight.clone(), 4);
    equal("embedding", &mine.forward(&ids).unwrap(), &original.forward(&ids).unwrap());
    differences("embedding", &[weight], |x| trainable_nn::Embedding::new(x[0].clone(), 4).forward(&ids));
}

#[test]
fn convolutions_are_candles_in_value_and_differentiable() {
    for (length, padding, stride, dilation, groups) in
        [(7, 0, 1, 1, 1), (7, 1, 2, 1, 1), (8, 1, 2, 1, 2), (7, 0, 2, 1, 1), (9, 2, 1, 2, 1)]
    {
        let name = format!(
            "length {length}, padding {padding}, stride {stride}, dilation {dilation}, groups {groups}"
        );
        let config = conv::Conv1dConfig { padding, stride, dilation, groups, cudnn_fwd_algo: None };
        let inputs = [tensor(1, &[2, 4, length]), tensor(2, &[6, 4 / groups, 3]), tensor(3, &[6])];
        let of = |x: &[Tensor]| conv::Conv1d::new(x[1].clone(), Some(x[2].clone()), config).forward(&x[0]);
        differences(&name, &inputs, of);
        let frozen = conv::Conv1d::new(inputs[1].clone(), Some(inputs[2].clone()), config);
        differences(&name, &inputs[..1], |x| frozen.forward(&x[0]));
        let trained = Var::from_tensor(&inputs[0]).unwrap();
        equal(&name, &frozen.forward(&trained).unwrap(), &frozen.forward(&inputs[0]).unwrap());

        let config = conv::Conv2dConfig { padding, stride, dilation, groups, cudnn_fwd_algo: None };
        let inputs =
            [tensor(1, &[1, 2, length, length - 1]), tensor(2, &[2, 2 / groups, 3, 2]), tensor(3, &[2])];
        let of = |x: &[Tensor]| conv::Conv2d::new(x[1].clone(), Some(x[2].clone()), config).forward(&x[0]);
        differences(&name, &inputs, of);
        let trained = Var::from_tensor(&inputs[0]).unwrap();
        let [trained, expected] = [trained.as_tensor(), &inputs[0]]
            .map(|xs| of(&[xs.clone(), inputs[1].clone(), inputs[2].clone()]).unwrap());
        equal(&name, &trained, &expected);
    }
    let small = conv::Conv2d::new(tensor(2, &[2, 2, 3, 3]), None, Default::default());
    assert!(small.forward(&Var::from_tensor(&tensor(1, &[1, 2, 2, 2])).unwrap()).is_err());
}

#[test]
fn a_transposed_convolution_over_two_dimensions_is_differentiable() {
    for (padding, output_padding, stride) in [(0, 0, 1), (1, 1, 2)] {
        let config = conv::ConvTranspose2dConfig { padding, output_padding, stride, dilation: 1 };
        let inputs = [tensor(1, &[1, 2, 4, 4]), tensor(2, &[2, 3, 3, 3])];
        differences(&format!("padding {padding}, stride {stride}"), &inputs, |x| {
            conv::ConvTranspose2d::new(x[1].clone(), None, config).forward(&x[0])
        });
    }
}

#[test]
fn batch_and_group_norms_are_candles_and_differentiable() {
    let (mean, var) = (tensor(4, &[4]), tensor(5, &[4]).affine(0.5, 1.0).unwrap());
    let inputs = [tensor(1, &[2, 4, 3]), tensor(2, &[4]), tensor(3, &[4])];
    differences("batch norm", &inputs, |x| {
        trainable_nn::BatchNorm::new(4, mean.clone(), var.clone(), x[1].clone(), x[2].clone(), 1e-5)?
            .forward_t(&x[0], false)
    });
    differences("group norm", &inputs, |x| {
        trainable_nn::GroupNorm::new(x[1].clone(), x[2].clone(), 4, 2, 1e-5)?.forward(&x[0])
    });
}

#[test]
fn attention_where_something_is_trained_is_candles() {
    // (batch, tokens, heads, head_dim), with a head of keys and values for two heads of queries.
    let (q, k, v) = (tensor(1, &[1, 3, 4, 8]), tensor(2, &[1, 5, 2, 8]), tensor(3, &[1, 5, 2, 8]));
    let original = |mask| candle_nn::attention::flash_attn::<f32>(&q, &k, &v, 0.3, mask, None, None).unwrap();
    for mask in [AttnMask::None, AttnMask::Causal { kv_offset: 2 }] {
        let trained = Var::from_tensor(&q).unwrap();
        let got = flash_attn::<f32>(&trained, &k, &v, 0.3, mask.clone(), None, None).unwrap();
        equal("trained", &got, &original(mask.clone()));
        let got = flash_attn::<f32>(&q, &k, &v, 0.3, mask.clone(), None, None).unwrap();
        equal("not trained", &got, &original(mask.clone()));
        let inputs = [q.clone(), k.clone(), v.clone()];
        differences("flash_attn", &inputs, |x| {
            flash_attn::<f32>(&x[0], &x[1], &x[2], 0.3, mask.clone(), None, None)
        });
    }
    // The same by the names of Metal's kernel, with heads before tokens and a mask of numbers.
    let [q, k, v] = [&q, &k, &v].map(|tensor| tensor.transpose(1, 2).unwrap());
    let mask = Tensor::new(&[[0f32, -1., 0., 0., f32::NEG_INFINITY]], &Device::Cpu).unwrap();
    let got = ops::sdpa(&q, &k, &v, None, true, 0.3, 1.0).unwrap();
    equal("sdpa", &got, &original(AttnMask::Causal { kv_offset: 2 }));
    differences("sdpa", &[q, k, v], |x| ops::sdpa(&x[0], &x[1], &x[2], Some(&mask), true, 0.3, 20.0));
}

type Append<'a> = &'a mut dyn FnMut(&Tensor, &Tensor) -> Result<(Tensor, Tensor)>;

/// Appends two parts and returns the contents of keys and values, one after the other.
fn appended(append: Append<'_>, parts: &[Tensor]) -> Result<Tensor> {
    append(&parts[0], &parts[1])?;
    let (k, v) = append(&parts[2], &parts[3])?;
    Tensor::cat(&[k, v], 1)
}

#[test]
fn caches_keep_gradients_and_contents() {
    let parts: Vec<Tensor> =
        [3, 3, 2, 2].iter().enumerate().map(|(seed, n)| tensor(seed as u64, &[1, 2, *n, 4])).collect();
    let mut original = candle_nn::kv_cache::KvCache::new(2, 4);
    let expected = appended(&mut |k, v| original.append(k, v), &parts).unwrap();

    let mut growing = KvCache::new(2, 4);
    equal("growing", &appended(&mut |k, v| growing.append(k, v), &parts).unwrap(), &expected);
    assert_eq!((growing.current_seq_len(), growing.k().unwrap().unwrap().dims()), (5, &[1, 2, 5, 4][..]));
    let mut concat = ConcatKvCache::new(2);
    equal("concatenated", &appended(&mut |k, v| concat.append(k, v), &parts).unwrap(), &expected);
    assert_eq!(concat.current_seq_len(), 5);

    differences("growing", &parts, |x| {
        let mut cache = KvCache::new(2, 4);
        let contents = appended(&mut |k, v| cache.append(k, v), x)?;
        assert_eq!(cache.current_seq_len(), 5);
        Ok(contents)
    });
    differences("concatenated", &parts, |x| {
        let mut cache = ConcatKvCache::new(2);
        appended(&mut |k, v| cache.append(k, v), x)
    });
    // Trained values after others that are not, and an empty cache again after a reset.
    let mut cache = KvCache::new(2, 4);
    cache.append(&parts[0], &parts[1]).unwrap();
    let trained = Var::from_tensor(&parts[2]).unwrap();
    let (k, v) = cache.append(&trained, &parts[3]).unwrap();
    equal("mixed", &Tensor::cat(&[&k, &v], 1).unwrap(), &expected);
    assert!(k.track_op() && !v.track_op());
    cache.reset();
    assert_eq!(cache.current_seq_len(), 0);
    assert!(!cache.append(&parts[0], &parts[1]).unwrap().0.track_op());
}

#[test]
fn a_rotating_cache_trains_from_its_beginning_and_refuses_later() {
    for tokens in [2, 6] {
        let (k, v) = (tensor(1, &[1, 2, tokens, 4]), tensor(2, &[1, 2, tokens, 4]));
        let mut original = candle_nn::kv_cache::RotatingKvCache::new(2, 4);
        let (expected_k, _) = original.append(&k, &v).unwrap();
        let mut cache = RotatingKvCache::new(2, 4);
        let trained = Var::from_tensor(&k).unwrap();
        let (got, _) = cache.append(&trained, &v).unwrap();
        assert!(got.track_op());
        equal("rotating", &got, &expected_k);
        equal("contents", &cache.k().unwrap().unwrap(), &original.k().unwrap().unwrap());
        let error = cache.append(&trained, &v).unwrap_err().to_string();
        assert!(error.contains("clear it"), "{error}");
    }
}
