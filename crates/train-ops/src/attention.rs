use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::dropout::Mask;
use crate::math::exp;
use crate::matmul::{Matrix, matmul};
use crate::{Dropout, Error, Pass, Result, host};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every query sees every key.
    Full,
    /// A prefix whose tokens all see each other and nothing else, then a causal rest: GIT's image tokens and text.
    ///
    /// A query at sequence position `p` sees the keys `0..prefix` if `p < prefix`, and `0..=p` otherwise. The queries
    /// are the positions from `first_query` on; the keys start at position 0.
    CausalAfterPrefix {
        /// Number of prefix tokens.
        prefix: usize,
        /// Sequence position of the first query.
        first_query: usize,
    },
}

impl AttentionMask {
    /// How many keys, counted from the first, query number `query` sees.
    fn visible(self, query: usize, keys: usize) -> usize {
        match self {
            Self::Full => keys,
            Self::CausalAfterPrefix { prefix, first_query } => {
                (first_query + query + 1).max(prefix).min(keys)
            }
        }
    }

    /// Runs of queries with the number of keys that any of them sees, so that products leave out what is masked.
    fn blocks(self, queries: usize, keys: usize) -> Vec<(Range<usize>, usize)> {
        let split = match self {
            Self::Full => 0,
            Self::CausalAfterPrefix { prefix, first_query } => {
                prefix.saturating_sub(first_query).min(queries)
            }
        };
        [0..split, split..queries]
            .into_iter()
            .filter(|block| !block.is_empty())
            .map(|block| (block.clone(), self.visible(block.end - 1, keys)))
            .collect()
    }
}

/// Multi-head scaled dot-product attention (Vaswani et al., 2017), differentiable:
/// `dropout(softmax(q kᵀ / sqrt(head_dim) + mask)) v` for each head.
///
/// `query` has shape `(batch, queries, heads * head_dim)`, `key` and `value` `(batch, keys, heads * head_dim)`; the
/// result has the shape of `query`. The mask is never made into a tensor.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: AttentionMask,
    dropout: &Dropout,
    pass: &Pass,
) -> Result<Tensor> {
    let (batch, queries, width) = query.dims3()?;
    let (_, keys, _) = key.dims3()?;
    for (path, tensor) in [("key", key), ("value", value)] {
        if tensor.dims() != [batch, keys, width] || heads == 0 || width % heads != 0 {
            return Err(Error::Shape {
                path: format!("attention's {path}"),
                expected: format!("({batch}, {keys}, {width}), the width a multiple of {heads} heads"),
                got: tensor.dims().to_vec(),
            });
        }
    }
    let shape = Sizes { batch, queries, keys, heads, head_dim: width / heads };
    // The probabilities seen as (batch, heads * queries, keys): one dropout row for each head and query.
    let dropout_mask = dropout.mask(&[batch, heads << HEAD_BITS, keys], pass)?;
    if host::is_host_f32(query) {
        let keep = query.track_op() || key.track_op() || value.track_op();
        let op =
            AttentionOp { sizes: shape, mask, dropout: dropout_mask, keep, probabilities: OnceLock::new() };
        return Ok(query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)?);
    }
    composed(query, key, value, shape, mask, dropout_mask)
}

/// Dropout rows are numbered `head * 2^20 + query`, so that the number does not depend on the sequence's length.
const HEAD_BITS: usize = 20;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// One head of one sample, as a matrix in a tensor of `(batch, tokens, heads * head_dim)`.
    fn head<'a>(&self, values: &'a [f32], tokens: usize, index: usize) -> Matrix<'a> {
        let (sample, head) = (index / self.heads, index % self.heads);
        let size = tokens * self.width();
        let values = &values[sample * size..(sample + 1) * size];
        Matrix::columns(values, tokens, self.width(), head * self.head_dim, self.head_dim)
    }

    /// Moves `(batch, heads, tokens, head_dim)` to `(batch, tokens, heads * head_dim)`.
    fn merge_heads(&self, values: &[f32], tokens: usize) -> Vec<f32> {
        let mut merged = vec![0.0; values.len()];
        if tokens == 0 {
            return merged;
        }
        merged.par_chunks_mut(self.width()).enumerate().for_each(|(row, merged)| {
            let (sample, token) = (row / tokens, row % tokens);
            for (head, merged) in merged.chunks_exact_mut(self.head_dim).enumerate() {
                let start = ((sample * self.heads + head) * tokens + token) * self.head_dim;
                merged.copy_from_slice(&values[start..start + self.head_dim]);
            }
        });
        merged
    }
}

struct AttentionOp {
    sizes: Sizes,
    mask: AttentionMask,
    dropout: Option<Mask>,
    /// Whether a backward pass may follow.
    keep: bool,
    /// Softmax of the scores before dropout, `(batch, heads, queries, keys)`; zero where masked.
    probabilities: OnceLock<Vec<f32>>,
}

impl AttentionOp {
    /// Multiplies the probabilities of one head, or their gradient, by the dropout mask.
    fn drop_out(&self, index: usize, rows: &mut [f32]) {
        if let Some(mask) = &self.dropout {
            let (sample, head) = (index / self.sizes.heads, index % self.sizes.heads);
            for (query, row) in rows.chunks_exact_mut(self.sizes.keys).enumerate() {
                mask.apply_row(mask.stream(sample), ((head << HEAD_BITS) + query) as u64, row);
            }
        }
    }
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
        let s = self.sizes;
        let q = host::slice(query, query_layout)?;
        let (k, v) = (host::slice(key, key_layout)?, host::slice(value, value_layout)?);
        let mut context = vec![0.0; q.len()];
        let mut kept = vec![0.0; if self.keep { s.batch * s.heads * s.queries * s.keys } else { 0 }];
        let head = |index: usize, context: &mut [f32], probabilities: &mut [f32]| {
            for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                let rows = &mut probabilities[block.start * s.keys..block.end * s.keys];
                let scores = s.head(q, s.queries, index).rows(block.clone());
                let keys = s.head(k, s.keys, index).rows(0..visible);
                matmul(rows, s.keys, 0.0, s.scale(), scores, keys.t());
                for (query, row) in block.zip(rows.chunks_exact_mut(s.keys)) {
                    softmax(row, self.mask.visible(query, s.keys));
                }
            }
            let mut dropped = Vec::new();
            let probabilities: &[f32] = if self.dropout.is_some() {
                dropped.extend_from_slice(probabilities);
                self.drop_out(index, &mut dropped);
                &dropped
            } else {
                probabilities
            };
            let probabilities = Matrix::new(probabilities, s.queries, s.keys);
            let values = s.head(v, s.keys, index);
            matmul(context, s.head_dim, 0.0, 1.0, probabilities, values);
        };
        let contexts = context.par_chunks_mut((s.queries * s.head_dim).max(1)).enumerate();
        if self.keep {
            contexts
                .zip(kept.par_chunks_mut((s.queries * s.keys).max(1)))
                .for_each(|((index, context), probabilities)| head(index, context, probabilities));
            let _ = self.probabilities.set(kept);
        } else {
            contexts.for_each_init(
                || vec![0.0; s.queries * s.keys],
                |probabilities, (index, context)| head(index, context, probabilities),
            );
        }
        let context = s.merge_heads(&context, s.queries);
        Ok((CpuStorage::F32(context), query_layout.shape().clone()))
    }

    /// With `P` the probabilities, `D` the dropout mask and `P' = D P`:
    /// `dv = P'ᵀ do`, `dP = D (do vᵀ)`, `dS = P (dP - rowsum(dP P))`, `dq = dS k / sqrt(d)`, `dk = dSᵀ q / sqrt(d)`.
    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _context: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.sizes;
        let Some(probabilities) = self.probabilities.get() else {
            bail!("attention: backward before forward")
        };
        let grad = grad.contiguous()?;
        let (q_view, k_view) = (query.storage_and_layout(), key.storage_and_layout());
        let (v_view, grad_view) = (value.storage_and_layout(), grad.storage_and_layout());
        let (q, k) = (host::values(&q_view)?, host::values(&k_view)?);
        let (v, dcontext) = (host::values(&v_view)?, host::values(&grad_view)?);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let head_rows = |rows: usize| (rows * s.head_dim).max(1);
        (
            dq.par_chunks_mut(head_rows(s.queries)),
            dk.par_chunks_mut(head_rows(s.keys)),
            dv.par_chunks_mut(head_rows(s.keys)),
            probabilities.par_chunks((s.queries * s.keys).max(1)),
        )
            .into_par_iter()
            .enumerate()
            .for_each_init(
                || (vec![0.0; s.queries * s.keys], vec![0.0; s.queries * s.keys]),
                |(dropped, dscores), (index, (dq, dk, dv, probabilities))| {
                    let dcontext = s.head(dcontext, s.queries, index);
                    dropped.copy_from_slice(probabilities);
                    self.drop_out(index, dropped);
                    let dropped = Matrix::new(dropped, s.queries, s.keys);
                    matmul(dv, s.head_dim, 0.0, 1.0, dropped.t(), dcontext);

                    let values = s.head(v, s.keys, index);
                    matmul(dscores, s.keys, 0.0, 1.0, dcontext, values.t());
                    self.drop_out(index, dscores);
                    for (dscores, p) in
                        dscores.chunks_exact_mut(s.keys).zip(probabilities.chunks_exact(s.keys))
                    {
                        softmax_backward(p, dscores);
                    }
                    let dscores = Matrix::new(dscores, s.queries, s.keys);
                    let (q, k) = (s.head(q, s.queries, index), s.head(k, s.keys, index));
                    matmul(dq, s.head_dim, 0.0, s.scale(), dscores, k);
                    matmul(dk, s.head_dim, 0.0, s.scale(), dscores.t(), q);
                },
            );
        let merged = |values: &[f32], tokens: usize, like: &Tensor| {
            let merged = s.merge_heads(values, tokens);
            like.track_op().then(|| Tensor::from_vec(merged, like.shape(), like.device())).transpose()
        };
        Ok((merged(&dq, s.queries, query)?, merged(&dk, s.keys, key)?, merged(&dv, s.keys, value)?))
    }
}

/// Softmax of the first `visible` values; the others become 0.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(crate) fn softmax(row: &mut [f32], visible: usize) {
    let (row, masked) = row.split_at_mut(visible);
    masked.fill(0.0);
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let total: f32 = row.iter().sum();
    for value in row.iter_mut() {
        *value /= total;
    }
}

/// `dS = P (dP - Σ dP P)`, in place of `dP`.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax_backward(probabilities: &[f32], dprobabilities: &mut [f32]) {
    let mean: f32 = probabilities.iter().zip(dprobabilities.iter()).map(|(p, dp)| p * dp).sum();
    for (dp, p) in dprobabilities.iter_mut().zip(probabilities) {
        *dp = p * (*dp - mean);
    }
}

/// Attention of candle's differentiable operations, for devices without an own kernel.
fn composed(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    s: Sizes,
    mask: AttentionMask,
    dropout: Option<Mask>,
) -> Result<Tensor> {
    let split = |tensor: &Tensor, tokens: usize| {
        tensor.reshape((s.batch, tokens, s.heads, s.head_dim))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (split(query, s.queries)?, split(key, s.keys)?, split(value, s.keys)?);
    let scores = (q.matmul(&k.t()?)? * f64::from(s.scale()))?.to_dtype(DType::F32)?;
    let bias: Vec<f32> = (0..s.queries)
        .flat_map(|query| {
            let visible = mask.visible(query, s.keys);
            (0..s.keys).map(move |key| if key < visible { 0.0 } else { f32::MIN })
        })
        .collect();
    let bias = Tensor::from_vec(bias, (s.queries, s.keys), query.device())?;
    let scores = scores.broadcast_add(&bias)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let mut probabilities = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    if let Some(mask) = dropout {
        let mut factors = vec![1.0; s.batch * s.heads * s.queries * s.keys];
        for (row, factors) in factors.chunks_exact_mut(s.keys).enumerate() {
            let (index, query) = (row / s.queries, row % s.queries);
            let (sample, head) = (index / s.heads, index % s.heads);
            mask.apply_row(mask.stream(sample), ((head << HEAD_BITS) + query) as u64, factors);
        }
        let factors = Tensor::from_vec(factors, probabilities.shape(), query.device())?;
        probabilities = (probabilities * factors)?;
    }
    let context = probabilities.to_dtype(value.dtype())?.matmul(&v)?;
    Ok(context.transpose(1, 2)?.reshape((s.batch, s.queries, s.width()))?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::sample_key;

    fn var(seed: f32, shape: (usize, usize, usize)) -> Var {
        let values = (0..shape.0 * shape.1 * shape.2).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0);
        Var::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
    }

    fn all(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The kernel and candle's operations must agree in the result and in all three gradients.
    fn agrees_with_composition(queries: usize, keys: usize, mask: AttentionMask, p: f32) {
        let (heads, head_dim, batch) = (3, 5, 2);
        let width = heads * head_dim;
        let (q, k, v) = (
            var(0.1, (batch, queries, width)),
            var(0.2, (batch, keys, width)),
            var(0.3, (batch, keys, width)),
        );
        let dropout = Dropout::new("probs", p).unwrap();
        let pass = Pass::training([sample_key(0, 0, 0), sample_key(0, 0, 1)]);
        let weights = var(0.4, (batch, queries, width));
        let own =
            attention(q.as_tensor(), k.as_tensor(), v.as_tensor(), heads, mask, &dropout, &pass).unwrap();
        let sizes = Sizes { batch, queries, keys, heads, head_dim };
        let drop_mask = dropout.mask(&[batch, heads << HEAD_BITS, keys], &pass).unwrap();
        let plain = composed(q.as_tensor(), k.as_tensor(), v.as_tensor(), sizes, mask, drop_mask).unwrap();
        let close = |name: &str, a: Vec<f32>, b: Vec<f32>| {
            let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 2e-6 * largest.max(1.0), "{name}: {a} and {b}, {mask:?}, p {p}");
            }
        };
        close("context", all(&own), all(&plain));
        let gradients = |ys: &Tensor| {
            let grads = (ys * weights.as_detached_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
            [&q, &k, &v].map(|var| all(grads.get(var).unwrap()))
        };
        for (name, (a, b)) in
            ["query", "key", "value"].iter().zip(gradients(&own).into_iter().zip(gradients(&plain)))
        {
            close(name, a, b);
        }
    }

    #[test]
    fn kernel_agrees_with_candle_in_value_and_gradients() {
        for p in [0.0, 0.3] {
            agrees_with_composition(7, 7, AttentionMask::Full, p);
            agrees_with_composition(9, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 0 }, p);
            agrees_with_composition(3, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 6 }, p);
            agrees_with_composition(6, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 3 }, p);
            agrees_with_composition(1, 1, AttentionMask::CausalAfterPrefix { prefix: 0, first_query: 0 }, p);
        }
    }

    #[test]
    fn dropout_of_a_longer_sequence_begins_like_that_of_a_shorter_one() {
        let dropout = Dropout::new("probs", 0.5).unwrap();
        let pass = Pass::training([7]);
        let first = |keys: usize| {
            let mask = dropout.mask(&[1, 2 << HEAD_BITS, keys], &pass).unwrap().unwrap();
            let mut row = vec![1.0; keys];
            mask.apply_row(mask.stream(0), (1 << HEAD_BITS) + 3, &mut row);
            row
        };
        assert_eq!(first(9)[..6], first(6));
    }
}
