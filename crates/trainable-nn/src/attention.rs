//! Attention on the CPU: candle-nn's fused kernel, or differentiable operations if a tensor is trained.

use candle_core::{Device, Result, Tensor, WithDType, bail};
pub use candle_nn::attention::{
    AttnMask, cpu_flash, flash_attn_varlen_cpu, flash_attn_varlen_unfused, varlen,
};

use crate::softmax::softmax_last_dim;

/// Attention of queries `(batch, queries, heads, head_dim)` over keys and values
/// `(batch, keys, kv_heads, head_dim)`; the result has shape `(batch, heads, queries, head_dim)`. If a tensor
/// is trained, attention is composed of differentiable operations; otherwise candle-nn's kernel computes it.
///
/// # Errors
/// If the shapes do not fit, or with ALiBi (`max_bias`) if a tensor is trained.
pub fn flash_attn<T>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    attn_mask: AttnMask,
    max_bias: Option<f32>,
    softcap: Option<f32>,
) -> Result<Tensor>
where
    T: WithDType + num_traits::Float,
{
    if ![q, k, v].into_iter().any(Tensor::track_op) {
        return candle_nn::attention::flash_attn::<T>(q, k, v, softmax_scale, attn_mask, max_bias, softcap);
    }
    if max_bias.is_some_and(|bias| bias > 0.0) {
        bail!("flash_attn with ALiBi has no backward pass")
    }
    let masking = Masking {
        added: match &attn_mask {
            AttnMask::Mask(mask) => Some(mask),
            _ => None,
        },
        causal_offset: attn_mask.is_causal().then_some(attn_mask.kv_offset()),
    };
    attention(
        &q.transpose(1, 2)?,
        &k.transpose(1, 2)?,
        &v.transpose(1, 2)?,
        masking,
        softmax_scale,
        softcap.filter(|cap| *cap > 0.0),
    )
}

/// The mask of attention.
pub(crate) struct Masking<'a> {
    /// Added to the scores.
    pub(crate) added: Option<&'a Tensor>,
    /// Query `i` attends to the keys up to `i` plus this number.
    pub(crate) causal_offset: Option<usize>,
}

/// Attention composed of differentiable operations. Heads are the second dimension, as in
/// [`sdpa`](crate::ops::sdpa).
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    masking: Masking<'_>,
    scale: f32,
    softcap: Option<f32>,
) -> Result<Tensor> {
    let (heads, kv_heads) = (q.dim(1)?, k.dim(1)?);
    if kv_heads == 0 || heads % kv_heads != 0 {
        bail!("attention: {heads} heads cannot share {kv_heads} heads of keys and values")
    }
    let (k, v) = (repeat_heads(k, heads / kv_heads)?, repeat_heads(v, heads / kv_heads)?);
    let mut scores = (q.contiguous()?.matmul(&k.t()?)? * f64::from(scale))?;
    if let Some(cap) = softcap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    if let Some(mask) = masking.added {
        scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    }
    if let Some(offset) = masking.causal_offset {
        let causal = causal_mask(scores.dim(2)?, scores.dim(3)?, offset, scores.device())?;
        scores = scores.broadcast_add(&causal.to_dtype(scores.dtype())?)?;
    }
    softmax_last_dim(&scores)?.matmul(&v)
}

/// Repeats each head `times` times in a row.
fn repeat_heads(heads: &Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return heads.contiguous();
    }
    let (batch, kv_heads, tokens, head_dim) = heads.dims4()?;
    let repeated = heads.unsqueeze(2)?.broadcast_as((batch, kv_heads, times, tokens, head_dim))?;
    repeated.reshape((batch, kv_heads * times, tokens, head_dim))
}

/// The mask `(queries, keys)`: 0 where a query attends to a key, and minus infinity elsewhere.
fn causal_mask(queries: usize, keys: usize, offset: usize, device: &Device) -> Result<Tensor> {
    let values = (0..queries).flat_map(|query| {
        (0..keys).map(move |key| if key <= query + offset { 0f32 } else { f32::NEG_INFINITY })
    });
    Tensor::from_vec(values.collect(), (queries, keys), device)
}
