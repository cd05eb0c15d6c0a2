//! Operations on tensors: candle-nn's, each of them differentiable.

use candle_core::shape::Dim;
use candle_core::{D, DType, Result, Tensor};
pub use candle_nn::ops::{
    Identity, dropout, hard_sigmoid, layer_norm_slow, leaky_relu, mish, pixel_shuffle, pixel_unshuffle,
    replication_pad2d, rms_norm_slow, selu, sigmoid,
};
use train_ops::ForwardContext;

pub use crate::Dropout;
use crate::attention::{Masking, attention};
use crate::error::to_candle;
pub use crate::softmax::{softmax, softmax_last_dim};

/// The logarithm of the softmax over the dimension `dim`; the result has the shape of `xs`.
///
/// # Errors
/// If there is no such dimension.
pub fn log_softmax<S: Dim>(xs: &Tensor, dim: S) -> Result<Tensor> {
    let dim = dim.to_index(xs.shape(), "log-softmax")?;
    // The largest element is subtracted only to prevent an overflow of exp, so it is a constant.
    let shifted = xs.broadcast_sub(&xs.detach().max_keepdim(dim)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(dim)?.log()?)
}

/// `x σ(x)`, for each element.
///
/// # Errors
/// If the type has no such operation.
pub fn silu(xs: &Tensor) -> Result<Tensor> {
    train_ops::Activation::Silu.forward(xs).map_err(to_candle)
}

/// `silu(a) b` with `a` and `b` the halves of the last dimension: `(..., 2 features)` to `(..., features)`.
///
/// # Errors
/// If the last dimension cannot be halved.
pub fn swiglu(xs: &Tensor) -> Result<Tensor> {
    match xs.chunk(2, D::Minus1)?.as_slice() {
        [a, b] => silu(a)? * b,
        _ => candle_core::bail!("swiglu needs a last dimension of 2 or more, got {:?}", xs.shape()),
    }
}

/// Root mean square normalisation of `xs` `(..., features)` over the last dimension, with the weight `alpha`
/// `(features)`.
///
/// # Errors
/// If `alpha` does not have the size of the last dimension.
pub fn rms_norm(xs: &Tensor, alpha: &Tensor, eps: f32) -> Result<Tensor> {
    rms_normalise(xs, alpha, f64::from(eps))
}

/// Layer normalisation of `xs` `(..., features)` over the last dimension, with the weight `alpha` and the bias
/// `beta`, both `(features)`.
///
/// # Errors
/// If `alpha` or `beta` does not have the size of the last dimension.
pub fn layer_norm(xs: &Tensor, alpha: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    normalise(xs, alpha, beta, f64::from(eps))
}

pub(crate) fn rms_normalise(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let weight = if xs.dtype() == DType::F32 { weight.to_dtype(DType::F32)? } else { weight.clone() };
    train_ops::rms_norm(xs, &weight, eps).map_err(to_candle)
}

pub(crate) fn normalise(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    // Types of 16 bits are normalised in f32, as in candle.
    let dtype = if xs.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let (weight, bias) = (weight.to_dtype(dtype)?, bias.to_dtype(dtype)?);
    let norm = train_ops::LayerNorm::new("layer_norm", weight, bias, eps).map_err(to_candle)?;
    // Whether the tensors are trained follows from whether they track gradients.
    let ys = norm.forward(&xs.to_dtype(dtype)?, &ForwardContext::training([])).map_err(to_candle)?;
    ys.to_dtype(xs.dtype())
}

/// Scaled dot-product attention, `softmax(q kᵀ scale + mask) v`, as candle-nn's fused kernel for Metal computes it, on every
/// device.
///
/// `q` has shape `(batch, heads, queries, head_dim)`, `k` and `v` `(batch, kv_heads, keys, head_dim)`, and each of `kv_heads`
/// serves `heads / kv_heads` heads. `mask` is added to the scores. With `softcapping` other than 1, scores become
/// `softcapping tanh(score / softcapping)` before.
///
/// # Errors
/// If the shapes are not these.
pub fn sdpa(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    do_causal: bool,
    scale: f32,
    softcapping: f32,
) -> Result<Tensor> {
    let is_trained = [q, k, v].into_iter().any(Tensor::track_op);
    if q.device().is_metal() && !is_trained {
        return candle_nn::ops::sdpa(q, k, v, mask, do_causal, scale, softcapping);
    }
    let offset = k.dim(2)?.saturating_sub(q.dim(2)?);
    let masking = Masking { added: mask, causal_offset: do_causal.then_some(offset) };
    let softcapping = (softcapping != 1.0).then_some(softcapping);
    attention(q, k, v, masking, scale, softcapping)
}
