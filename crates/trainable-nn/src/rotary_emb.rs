//! Rotary position embeddings.

use candle_core::{Result, Tensor};
pub use candle_nn::rotary_emb::{rope_i_slow, rope_slow};
use train_ops::{RotaryLayout, rotary_embedding};

use crate::error::to_candle;

/// Rotates element `i` with element `i + head_dim / 2` of each head. `xs` has shape `(batch, heads, tokens, head_dim)`, `cos`
/// and `sin` `(tokens or more, head_dim / 2)` or the same for each sequence.
///
/// # Errors
/// If the shapes are not these.
pub fn rope(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotary_embedding(xs, cos, sin, RotaryLayout::Halves).map_err(to_candle)
}

/// As [`rope`], but rotates element `2 i` with element `2 i + 1`.
///
/// # Errors
/// If the shapes are not these.
pub fn rope_i(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotary_embedding(xs, cos, sin, RotaryLayout::Interleaved).map_err(to_candle)
}

/// As [`rope`], for `xs` of shape `(batch, tokens, heads, head_dim)`.
///
/// # Errors
/// If the shapes are not these.
pub fn rope_thd(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotary_embedding(xs, cos, sin, RotaryLayout::HalvesOfTokens).map_err(to_candle)
}
