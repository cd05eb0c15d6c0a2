use candle_core::shape::Dim;
use candle_core::{Result, Tensor};

use crate::error::to_candle;

/// Softmax over the dimension `dim`; the result has the shape of `xs`.
///
/// # Errors
/// If there is no such dimension, or it is empty.
pub fn softmax<S: Dim>(xs: &Tensor, dim: S) -> Result<Tensor> {
    let (dim, last) = (dim.to_index(xs.shape(), "softmax")?, xs.rank() - 1);
    if dim == last {
        return softmax_last_dim(xs);
    }
    softmax_last_dim(&xs.transpose(dim, last)?)?.transpose(dim, last)?.contiguous()
}

/// Softmax over the last dimension; the result has the shape of `xs`.
///
/// # Errors
/// If `xs` is a scalar, or the dimension is empty.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    train_ops::softmax_last_dim(xs).map_err(to_candle)
}
