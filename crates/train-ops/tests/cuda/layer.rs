//! A layer of a transformer with an adapter in each of its linear layers.

use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{
    Activation, AdaptedLinear, AttentionMask, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer,
    LoraWeights, Result, TransformerLayer, lora_linear,
};

use crate::common::{Input, LAYER, Parameter, Trained, check, constant, training};

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

pub(crate) const WIDTH: usize = 32;
const INNER: usize = 48;

/// A layer whose adapters are the tensors after the first.
pub(crate) fn transformer_layer(x: &[Tensor], norm_first: bool) -> TransformerLayer {
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

/// The shapes of the adapters, `A` and `B` of one linear layer after the other.
pub(crate) fn adapter_shapes() -> Vec<[usize; 2]> {
    let shapes = |index: usize| {
        let (n_in, n_out) = match index {
            4 => (WIDTH, INNER),
            5 => (INNER, WIDTH),
            _ => (WIDTH, WIDTH),
        };
        [[8, n_in], [n_out, 8]]
    };
    (0..6).flat_map(shapes).collect()
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
