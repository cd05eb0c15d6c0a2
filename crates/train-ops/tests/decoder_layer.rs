//! A layer with cross-attention as one operation against the same layer composed of smaller ones, whose own gradients are checked
//! against finite differences.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/layer.rs"]
mod layer;

use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{
    CrossAttention, DecoderLayer, DecoderMasks, Dropout, ForwardContext, KeyLengths, LayerNorm, LinearLayer,
    sample_key,
};

use common::{adapted, values, var};
use layer::transformer_layer;

const WIDTH: usize = 24;
const STATE_WIDTH: usize = 20;
const INNER: usize = 40;
const TOKENS: usize = 7;
const STATES: usize = 11;

/// The layer as one operation, or composed.
fn layer(one_operation: bool) -> DecoderLayer {
    let linear =
        |seed, n_in, n_out| -> Arc<dyn LinearLayer> { Arc::new(adapted(seed, n_in, n_out, one_operation)) };
    let norm = |seed| {
        let weight = (values(seed, WIDTH) + 1.5).unwrap();
        LayerNorm::new("norm", weight, values(seed + 1, WIDTH), 1e-5).unwrap()
    };
    let dropout = |path| Dropout::new(path, 0.15).unwrap();
    DecoderLayer {
        layer: transformer_layer(3, (WIDTH, INNER), false, linear, norm),
        cross: CrossAttention {
            query: linear(7, WIDTH, WIDTH),
            key: linear(8, STATE_WIDTH, WIDTH),
            value: linear(9, STATE_WIDTH, WIDTH),
            dropout: dropout("cross.probabilities"),
            output: linear(10, WIDTH, WIDTH),
            output_dropout: dropout("cross.output"),
            norm: norm(70),
        },
    }
}

fn all(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The result, the gradients of text and states where they are tracked, and those of all adapters in order.
fn run(layer: &DecoderLayer, text: &Tensor, states: &Tensor, masks: &DecoderMasks) -> Vec<Vec<f32>> {
    let ctx = ForwardContext::training([sample_key(1, 0, 0), sample_key(1, 0, 1)]);
    let ys = layer.forward(text, states, masks, &ctx).unwrap();
    let gradients = (&ys * values(9, ys.shape())).unwrap().sum_all().unwrap().backward().unwrap();
    let mut found = vec![all(&ys)];
    found.extend([text, states].into_iter().filter_map(|input| gradients.get(input)).map(all));
    found.extend(layer.parameters().iter().map(|parameter| all(gradients.get(parameter).unwrap())));
    found
}

/// Causal and bidirectional, without padding and with it.
fn masks() -> [DecoderMasks; 3] {
    let padded = DecoderMasks {
        causal: false,
        text_lengths: Some(KeyLengths::new([TOKENS, 4])),
        state_lengths: Some(KeyLengths::new([5, STATES])),
    };
    [DecoderMasks::causal(), DecoderMasks::default(), padded]
}

fn inputs() -> [Tensor; 2] {
    [var(&values(7, (2, TOKENS, WIDTH))), var(&values(8, (2, STATES, STATE_WIDTH)))]
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
    let [text, states] = inputs();
    for masks in masks() {
        let expected = run(&layer(false), &text, &states, &masks);
        let got = run(&layer(true), &text, &states, &masks);
        assert_eq!(got.len(), 3 + 20);
        assert_close(&format!("{masks:?}"), &got, &expected);
    }
}

#[test]
fn frozen_inputs_get_no_gradient_and_the_adapters_get_theirs() {
    let ([text, states], layer) = (inputs(), layer(true));
    for masks in masks() {
        let mut of_tracked = run(&layer, &text, &states, &masks);
        of_tracked.drain(1..3);
        assert_eq!(run(&layer, &text.detach(), &states.detach(), &masks), of_tracked, "{masks:?}");
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits() {
    let [text, states] = inputs();
    for one_operation in [false, true] {
        let layer = layer(one_operation);
        let mut again = layer.clone();
        again.layer.recompute = true;
        for masks in masks() {
            for states in [&states, &states.detach()] {
                let expected = run(&layer, &text, states, &masks);
                assert_eq!(run(&again, &text, states, &masks), expected, "{one_operation} {masks:?}");
            }
        }
    }
}

/// Padding has no effect on real tokens: a sample in a padded batch gives the bits that it gives alone.
#[test]
fn padding_is_never_seen() {
    let ([text, states], ctx) = (inputs(), ForwardContext::inference());
    for one_operation in [false, true] {
        let layer = layer(one_operation);
        let [_, alone, padded] = masks();
        let batch = layer.forward(&text, &states, &padded, &ctx).unwrap();
        let real = |tensor: &Tensor, sample: usize, tokens: usize| {
            tensor.narrow(0, sample, 1).unwrap().narrow(1, 0, tokens).unwrap().contiguous().unwrap()
        };
        for (sample, [tokens, count]) in [[TOKENS, 5], [4, STATES]].into_iter().enumerate() {
            let (text, states) = (real(&text, sample, tokens), real(&states, sample, count));
            let expected = layer.forward(&text, &states, &alone, &ctx).unwrap();
            assert_eq!(all(&real(&batch, sample, tokens)), all(&expected), "sample {sample}");
        }
    }
}

#[test]
fn norms_that_come_first_are_refused() {
    let ([text, states], mut layer) = (inputs(), layer(true));
    layer.layer.norm_first = true;
    let ctx = ForwardContext::inference();
    let error = layer.forward(&text, &states, &DecoderMasks::causal(), &ctx).unwrap_err().to_string();
    assert!(error.contains("norm_first"), "{error}");
}
