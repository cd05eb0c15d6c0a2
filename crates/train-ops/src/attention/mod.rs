mod composed;
mod fused;
mod key_lengths;
mod mask;
mod rows;
pub(crate) mod sizes;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, bail};
use cpu_kernels::Buffer;

use crate::{Dropout, Error, ForwardContext, Result, cuda, host};

pub use fused::fused_attention;
pub use key_lengths::KeyLengths;
pub use mask::AttentionMask;
pub(crate) use rows::AttentionRows;
use sizes::Sizes;

/// Multi-head scaled dot-product attention (Vaswani et al., 2017), differentiable:
/// `dropout(softmax(q kᵀ / sqrt(head_dim) + mask)) v` for each head.
///
/// `query` has shape `(batch, queries, heads * head_dim)`, `key` and `value` `(batch, keys, heads * head_dim)`;
/// the result has the shape of `query`. No tensor is made of the mask.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: AttentionMask,
    dropout: &Dropout,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    padded_attention([query, key, value], heads, mask, None, dropout, ctx)
}

/// [`attention`] in a padded batch: `lengths` has the number of real keys of each sample, and no query sees the
/// keys after them. `None` is a batch without padding.
///
/// # Errors
/// If shapes do not fit, or `lengths` are not those of the keys.
pub fn padded_attention(
    [query, key, value]: [&Tensor; 3],
    heads: usize,
    mask: AttentionMask,
    lengths: Option<&KeyLengths>,
    dropout: &Dropout,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    let (batch, queries, width) = query.dims3()?;
    let (_, keys, _) = key.dims3()?;
    for (path, tensor) in [("key", key), ("value", value)] {
        let empty = heads == 0 || keys == 0 || width == 0;
        if tensor.dims() != [batch, keys, width] || empty || width % heads != 0 {
            return Err(Error::Shape {
                path: format!("attention's {path}"),
                expected: format!(
                    "({batch}, {keys}, {width}), the width a multiple of {heads} heads, none of them 0"
                ),
                got: tensor.dims().to_vec(),
            });
        }
    }
    let sizes = Sizes { batch, queries, keys, heads, head_dim: width / heads };
    let rows = AttentionRows::new(sizes, mask, lengths, dropout, ctx)?;
    if host::is_host_f32(query) {
        let keep = query.track_op() || key.track_op() || value.track_op();
        let op = AttentionOp { rows, keep, probabilities: OnceLock::new() };
        return Ok(query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)?);
    }
    let of_gpu = cuda::attention([query, key, value], sizes, (mask, lengths), rows.dropout.as_ref())?;
    if let Some(context) = of_gpu {
        return Ok(context);
    }
    Ok(composed::attention([query, key, value], rows)?)
}

/// Dropout rows are numbered `head * 2^20 + query`, so that the number does not depend on the sequence's length.
const HEAD_BITS: usize = 20;

struct AttentionOp {
    rows: AttentionRows,
    /// Whether a backward pass may follow.
    keep: bool,
    probabilities: OnceLock<Buffer>,
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let q = host::slice(query, query_layout)?;
        let (k, v) = (host::slice(key, key_layout)?, host::slice(value, value_layout)?);
        let mut context = vec![0.0; q.len()];
        if let Some(probabilities) = self.rows.forward([q, k, v], &mut context, self.keep) {
            let _ = self.probabilities.set(probabilities);
        }
        Ok((CpuStorage::F32(context), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _context: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(probabilities) = self.probabilities.get() else {
            bail!("attention: backward before forward")
        };
        let grad = grad.contiguous()?;
        let (q_view, k_view) = (query.storage_and_layout(), key.storage_and_layout());
        let (v_view, grad_view) = (value.storage_and_layout(), grad.storage_and_layout());
        let (q, k) = (host::values(&q_view)?, host::values(&k_view)?);
        let (v, dcontext) = (host::values(&v_view)?, host::values(&grad_view)?);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        self.rows.backward([q, k, v], probabilities, dcontext, [&mut dq, &mut dk, &mut dv]);
        let gradient = |values: Vec<f32>, like: &Tensor| {
            like.track_op().then(|| Tensor::from_vec(values, like.shape(), like.device())).transpose()
        };
        Ok((gradient(dq, query)?, gradient(dk, key)?, gradient(dv, value)?))
    }
}

#[cfg(test)]
mod tests;
