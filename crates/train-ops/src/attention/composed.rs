//! Attention composed of candle's operations, for devices without a kernel.

use candle_core::{D, DType, Result, Tensor};

use super::{AttentionRows, HEAD_BITS};
use crate::attached::attach3;

/// Attention as one node of the graph, with the formulas of [`AttentionRows::backward`](super::AttentionRows::backward).
pub(super) fn attention([query, key, value]: [&Tensor; 3], rows: AttentionRows) -> Result<Tensor> {
    let s = rows.sizes;
    let split = move |tensor: &Tensor, tokens: usize| {
        tensor.detach().reshape((s.batch, tokens, s.heads, s.head_dim))?.transpose(1, 2)?.contiguous()
    };
    let merge =
        move |tensor: &Tensor, tokens: usize| tensor.transpose(1, 2)?.reshape((s.batch, tokens, s.width()));
    let (q, k, v) = (split(query, s.queries)?, split(key, s.keys)?, split(value, s.keys)?);
    let scale = 1.0 / (s.head_dim as f64).sqrt();
    // Softmax of short types is computed in f32.
    let (given, dtype) = (query.dtype(), if query.dtype() == DType::F64 { DType::F64 } else { DType::F32 });
    // One mask for all samples, or one for each sample if keys are padded. All heads of a sample share a mask.
    let masks = if rows.is_padded() { s.batch } else { 1 };
    let bias: Vec<f32> = (0..masks * s.queries)
        .flat_map(|row| {
            let visible = rows.visible(row / s.queries * s.heads, row % s.queries);
            (0..s.keys).map(move |key| if key < visible { 0.0 } else { f32::MIN })
        })
        .collect();
    let bias = Tensor::from_vec(bias, (masks, 1, s.queries, s.keys), query.device())?.to_dtype(dtype)?;
    let scores = (q.matmul(&k.t()?)? * scale)?.to_dtype(dtype)?.broadcast_add(&bias)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let probabilities = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    let factors = match rows.dropout {
        Some(mask) => {
            let mut factors = vec![1.0; s.batch * s.heads * s.queries * s.keys];
            for (row, factors) in factors.chunks_exact_mut(s.keys).enumerate() {
                let (index, query) = (row / s.queries, row % s.queries);
                mask.apply_part((index << HEAD_BITS) + query, 0, factors);
            }
            Some(Tensor::from_vec(factors, probabilities.shape(), query.device())?.to_dtype(dtype)?)
        }
        None => None,
    };
    let drop_out =
        move |values: &Tensor| factors.as_ref().map_or(Ok(values.clone()), |factors| values * factors);
    let context = merge(&drop_out(&probabilities)?.to_dtype(given)?.matmul(&v)?, s.queries)?;

    let backward = move |dcontext: &Tensor, [of_q, of_k, of_v]: [bool; 3]| {
        let dcontext = split(dcontext, s.queries)?;
        let dropped = drop_out(&probabilities)?.to_dtype(given)?;
        let dv = of_v.then(|| merge(&dropped.t()?.matmul(&dcontext)?, s.keys));
        let dprobabilities = drop_out(&dcontext.matmul(&v.t()?)?.to_dtype(dtype)?)?;
        let weighted = (&probabilities * dprobabilities)?;
        let mean = weighted.sum_keepdim(D::Minus1)?;
        let dscores = ((weighted - probabilities.broadcast_mul(&mean)?)? * scale)?.to_dtype(given)?;
        let dq = of_q.then(|| merge(&dscores.matmul(&k)?, s.queries));
        let dk = of_k.then(|| merge(&dscores.t()?.matmul(&q)?, s.keys));
        Ok([dq.transpose()?, dk.transpose()?, dv.transpose()?])
    };
    attach3("attention", [query, key, value], context, backward)
}
