//! A layer of a transformer.

use std::sync::Arc;

use train_ops::{Activation, Dropout, LayerNorm, LinearLayer, TransformerLayer};

/// A layer whose parts are made by `linear`, from a number from 1 to 6 and the numbers of inputs and outputs,
/// and by `norm`, from a number.
pub(crate) fn transformer_layer(
    heads: usize,
    (width, inner): (usize, usize),
    norm_first: bool,
    linear: impl Fn(u64, usize, usize) -> Arc<dyn LinearLayer>,
    norm: impl Fn(u64) -> LayerNorm,
) -> TransformerLayer {
    let dropout = |path| Dropout::new(path, 0.15).unwrap();
    TransformerLayer {
        heads,
        norm_first,
        query: linear(1, width, width),
        key: linear(2, width, width),
        value: linear(3, width, width),
        attention_dropout: dropout("probabilities"),
        attention_output: linear(4, width, width),
        attention_output_dropout: dropout("attention"),
        attention_norm: norm(50),
        intermediate: linear(5, width, inner),
        activation: Activation::Gelu,
        output: linear(6, inner, width),
        output_dropout: dropout("output"),
        output_norm: norm(60),
        recompute: false,
    }
}
