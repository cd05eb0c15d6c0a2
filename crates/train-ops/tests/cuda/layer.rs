//! A layer of a transformer with an adapter in each of its linear layers.

#[path = "../common/adapted.rs"]
mod adapted;
#[path = "../common/layer.rs"]
mod parts;

use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{
    AttentionMask, CrossAttention, DecoderLayer, DecoderMasks, Dropout, FrozenLinear, LayerNorm, LinearLayer,
    TransformerLayer,
};

use adapted::Adapted;

use crate::common::{Frozen, Input, LAYER, Parameter, Trained, check, constant, training};

pub(crate) const WIDTH: usize = 32;
const INNER: usize = 48;
const STATE_WIDTH: usize = 40;

/// A frozen layer, which the number makes different from others.
fn frozen(x: &[Tensor], number: u64, n_in: usize, n_out: usize) -> FrozenLinear {
    let weight = (constant(20 + number, &[n_out, n_in], &x[0]) * 0.25).unwrap();
    FrozenLinear::new(&format!("layer{number}"), weight, Some(constant(30, &[n_out], &x[0]))).unwrap()
}

/// A layer whose adapters are the tensors after the first, two for each number from 1 on.
fn linear(x: &[Tensor], number: u64, n_in: usize, n_out: usize) -> Arc<dyn LinearLayer> {
    let [a, b] = [2 * number - 1, 2 * number].map(|index| x[index as usize].clone());
    Arc::new(Adapted {
        base: frozen(x, number, n_in, n_out),
        a,
        b,
        // Small, so that attention does not choose a single key, which the rounding of bf16 would change.
        scale: 0.05,
        dropout: Dropout::new(&format!("layer{number}"), 0.2).unwrap(),
        known: true,
    })
}

fn norm(x: &[Tensor], seed: u64) -> LayerNorm {
    let weight = (constant(seed, &[WIDTH], &x[0]) + 1.5).unwrap();
    LayerNorm::new("norm", weight, constant(seed + 1, &[WIDTH], &x[0]), 1e-5).unwrap()
}

/// A layer whose adapters are the tensors after the first.
pub(crate) fn transformer_layer(x: &[Tensor], norm_first: bool) -> TransformerLayer {
    let linear = |number, n_in, n_out| linear(x, number, n_in, n_out);
    parts::transformer_layer(2, (WIDTH, INNER), norm_first, linear, |seed| norm(x, seed))
}

/// The same with cross-attention, whose adapters come after those.
fn decoder_layer(x: &[Tensor]) -> DecoderLayer {
    let dropout = |path| Dropout::new(path, 0.15).unwrap();
    let cross = CrossAttention {
        query: linear(x, 7, WIDTH, WIDTH),
        key: linear(x, 8, STATE_WIDTH, WIDTH),
        value: linear(x, 9, STATE_WIDTH, WIDTH),
        dropout: dropout("cross probabilities"),
        output: linear(x, 10, WIDTH, WIDTH),
        output_dropout: dropout("cross"),
        norm: norm(x, 65),
    };
    DecoderLayer { layer: transformer_layer(x, false), cross }
}

/// A layer without adapters.
fn frozen_layer(x: &[Tensor], norm_first: bool) -> TransformerLayer {
    let linear = |number, n_in, n_out| Arc::new(frozen(x, number, n_in, n_out)) as Arc<dyn LinearLayer>;
    parts::transformer_layer(2, (WIDTH, INNER), norm_first, linear, |seed| norm(x, seed))
}

/// The shapes of the adapters, `A` and `B` of one linear layer after the other.
pub(crate) fn adapter_shapes() -> Vec<[usize; 2]> {
    shapes_of(1..=6)
}

fn shapes_of(layers: impl Iterator<Item = u64>) -> Vec<[usize; 2]> {
    let shapes = |number: u64| {
        let (n_in, n_out) = match number {
            5 => (WIDTH, INNER),
            6 => (INNER, WIDTH),
            8 | 9 => (STATE_WIDTH, WIDTH),
            _ => (WIDTH, WIDTH),
        };
        [[8, n_in], [n_out, 8]]
    };
    layers.flat_map(shapes).collect()
}

#[test]
fn a_whole_layer_of_a_transformer() {
    for first_query in [0, 1] {
        let mask = AttentionMask::CausalAfterPrefix { prefix: 2, first_query };
        for norm_first in [false, true] {
            let shapes = adapter_shapes();
            let mut inputs: Vec<Input<'_>> = vec![(Trained, 1, &[2, 6, WIDTH])];
            inputs.extend((70..).zip(&shapes).map(|(seed, shape)| (Parameter, seed, &shape[..])));
            let name = format!("layer, norm first: {norm_first}, first query {first_query}");
            check(&name, &inputs, LAYER, |x| {
                transformer_layer(x, norm_first).forward(&x[0], mask, &training()).unwrap()
            });
        }
    }
}

/// A frozen layer without adapters, whose MLP adds its bias in the launch of the activation: in place where nothing needs a gradient, as
/// in a frozen vision encoder.
#[test]
fn a_whole_frozen_layer() {
    for kind in [Trained, Frozen] {
        for norm_first in [false, true] {
            check("frozen layer", &[(kind, 1, &[2, 6, WIDTH])], LAYER, |x| {
                frozen_layer(x, norm_first).forward(&x[0], AttentionMask::Full, &training()).unwrap()
            });
        }
    }
}

/// States that are trained, and states of a frozen encoder.
#[test]
fn a_whole_layer_with_cross_attention() {
    let shapes = shapes_of(1..=10);
    for states in [Trained, Frozen] {
        let mut inputs: Vec<Input<'_>> = vec![(Trained, 1, &[2, 6, WIDTH])];
        inputs.extend((70..).zip(&shapes).map(|(seed, shape)| (Parameter, seed, &shape[..])));
        inputs.push((states, 2, &[2, 9, STATE_WIDTH]));
        check("layer with cross-attention", &inputs, LAYER, |x| {
            let masks = DecoderMasks::causal();
            decoder_layer(x).forward(&x[0], &x[21], &masks, &training()).unwrap()
        });
    }
}
