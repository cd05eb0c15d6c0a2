use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Columns, Isa, Panels, Place, to_rows};
use crate::math::exp;
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
    /// Sequence position of the first query.
    pub(crate) fn first_query(self) -> usize {
        match self {
            Self::Full => 0,
            Self::CausalAfterPrefix { first_query, .. } => first_query,
        }
    }

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
    let sizes = Sizes { batch, queries, keys, heads, head_dim: width / heads };
    let rows = AttentionRows::new(sizes, mask, dropout, pass)?;
    if host::is_host_f32(query) {
        let keep = query.track_op() || key.track_op() || value.track_op();
        let op = AttentionOp { rows, keep, probabilities: OnceLock::new() };
        return Ok(query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)?);
    }
    composed(query, key, value, sizes, mask, rows.dropout)
}

/// Dropout rows are numbered `head * 2^20 + query`, so that the number does not depend on the sequence's length.
const HEAD_BITS: usize = 20;

#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Where head number `index`, counted over the batch, begins in a tensor of `(batch, tokens, heads * head_dim)`.
    fn first(&self, tokens: usize, index: usize) -> usize {
        index / self.heads * tokens * self.width() + index % self.heads * self.head_dim
    }

    /// The rows `rows` of that head.
    fn head<'a>(&self, values: &'a [f32], tokens: usize, index: usize, rows: Range<usize>) -> Columns<'a> {
        let first = self.first(tokens, index) + rows.start * self.width();
        Columns::new(&values[first..], rows.len(), self.width(), self.head_dim)
    }
}

/// Attention of one pass, on rows of host memory.
pub(crate) struct AttentionRows {
    sizes: Sizes,
    mask: AttentionMask,
    dropout: Option<Mask>,
}

thread_local! {
    /// Packed factors, and rows of scores.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        panels: [Panels::new(Isa::active()), Panels::new(Isa::active())],
        rows: [Vec::new(), Vec::new()],
    });
}

struct Scratch {
    panels: [Panels; 2],
    rows: [Vec<f32>; 2],
}

impl AttentionRows {
    pub(crate) fn new(sizes: Sizes, mask: AttentionMask, dropout: &Dropout, pass: &Pass) -> Result<Self> {
        // The probabilities seen as (batch, heads * queries, keys): one dropout row for each head and query.
        let dropout = dropout.mask(&[sizes.batch, sizes.heads << HEAD_BITS, sizes.keys], pass)?;
        Ok(Self { sizes, mask, dropout })
    }

    /// Multiplies the probabilities of one head, or their gradient, by the dropout mask.
    fn drop_out(&self, index: usize, rows: &mut [f32]) {
        if let Some(mask) = &self.dropout {
            let (sample, head) = (index / self.sizes.heads, index % self.sizes.heads);
            for (query, row) in rows.chunks_exact_mut(self.sizes.keys).enumerate() {
                let visible = self.mask.visible(query, self.sizes.keys);
                mask.apply_row(
                    mask.stream(sample),
                    ((head << HEAD_BITS) + query) as u64,
                    &mut row[..visible],
                );
            }
        }
    }

    /// Computes `context` from queries, keys and values. Returns what the backward pass needs, if it is to be kept: softmax
    /// of the scores before dropout, `(batch, heads, queries, keys)`, zero where masked.
    pub(crate) fn forward(&self, [q, k, v]: [&[f32]; 3], context: &mut [f32], keep: bool) -> Option<Buffer> {
        let s = self.sizes;
        assert!(
            context.len() == q.len() && q.len() == s.batch * s.queries * s.width(),
            "context of attention"
        );
        let place = Place::all(context, s.width());
        let size = s.queries * s.keys;
        let head =
            |index: usize, probabilities: &mut [f32], panels: &mut [Panels; 2], dropped: &mut Vec<f32>| {
                let [keys, values] = panels;
                let keys = keys.pack_transposed(s.head(k, s.keys, index, 0..s.keys), s.scale());
                let values = values.pack(s.head(v, s.keys, index, 0..s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &mut probabilities[block.start * s.keys..block.end * s.keys];
                    to_rows(rows, s.keys, visible, s.head(q, s.queries, index, block.clone()), keys);
                    for (query, row) in block.zip(rows.chunks_exact_mut(s.keys)) {
                        softmax(row, self.mask.visible(query, s.keys));
                    }
                }
                let probabilities: &[f32] = if self.dropout.is_some() {
                    dropped.clear();
                    dropped.extend_from_slice(probabilities);
                    self.drop_out(index, dropped);
                    dropped
                } else {
                    probabilities
                };
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &probabilities[block.start * s.keys..block.end * s.keys];
                    let first = s.first(s.queries, index) + block.start * s.width();
                    // SAFETY: `first` is the first value of this block of this head of `context`, whose length was checked;
                    // other tasks work on other heads.
                    #[allow(unsafe_code)]
                    unsafe {
                        place.put(first, Columns::new(rows, block.len(), s.keys, visible), values);
                    }
                }
            };
        let heads = s.batch * s.heads;
        if keep {
            let mut kept = Buffer::new(heads * size);
            kept.par_chunks_mut(size.max(1)).enumerate().for_each(|(index, probabilities)| {
                SCRATCH.with_borrow_mut(|Scratch { panels, rows: [dropped, _] }| {
                    head(index, probabilities, panels, dropped);
                });
            });
            return Some(kept);
        }
        (0..heads).into_par_iter().for_each(|index| {
            SCRATCH.with_borrow_mut(|Scratch { panels, rows: [dropped, probabilities] }| {
                probabilities.resize(size, 0.0);
                head(index, probabilities, panels, dropped);
            });
        });
        None
    }

    /// With `P` the probabilities, `D` the dropout mask and `P' = D P`:
    /// `dv = P'ᵀ do`, `dP = D (do vᵀ)`, `dS = P (dP - rowsum(dP P))`, `dq = dS k / sqrt(d)`, `dk = dSᵀ q / sqrt(d)`.
    pub(crate) fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        probabilities: &[f32],
        dcontext: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let s = self.sizes;
        assert!(
            (dq.len(), dk.len(), dv.len()) == (q.len(), k.len(), v.len()) && dcontext.len() == q.len(),
            "gradients of attention"
        );
        let [dq, dk, dv] = [dq, dk, dv].map(|to| Place::all(to, s.width()));
        let size = s.queries * s.keys;
        probabilities.par_chunks(size.max(1)).enumerate().for_each(|(index, probabilities)| {
            SCRATCH.with_borrow_mut(|Scratch { panels: [panels, _], rows: [dropped, dscores] }| {
                let all = |values, tokens| s.head(values, tokens, index, 0..tokens);
                let (of_queries, of_keys) = (s.first(s.queries, index), s.first(s.keys, index));
                dropped.clear();
                dropped.extend_from_slice(probabilities);
                self.drop_out(index, dropped);
                let dropped = Columns::new(dropped, s.queries, s.keys, s.keys);
                let packed = panels.pack(all(dcontext, s.queries), 1.0);
                // SAFETY (here and below): the first value of this head of a gradient, whose length was checked; other
                // tasks work on other heads.
                #[allow(unsafe_code)]
                unsafe {
                    dv.put_transposed(of_keys, dropped, packed);
                }

                dscores.resize(size, 0.0);
                let values = panels.pack_transposed(all(v, s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &mut dscores[block.start * s.keys..block.end * s.keys];
                    to_rows(rows, s.keys, visible, s.head(dcontext, s.queries, index, block), values);
                }
                self.drop_out(index, dscores);
                let rows = dscores.chunks_exact_mut(s.keys).zip(probabilities.chunks_exact(s.keys));
                for (query, (dscores, p)) in rows.enumerate() {
                    softmax_backward(p, dscores, self.mask.visible(query, s.keys));
                }
                let keys = panels.pack(all(k, s.keys), s.scale());
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &dscores[block.start * s.keys..block.end * s.keys];
                    let rows = Columns::new(rows, block.len(), s.keys, visible);
                    #[allow(unsafe_code)]
                    unsafe {
                        dq.put(of_queries + block.start * s.width(), rows, keys);
                    }
                }
                let queries = panels.pack(all(q, s.queries), s.scale());
                let dscores = Columns::new(dscores, s.queries, s.keys, s.keys);
                #[allow(unsafe_code)]
                unsafe {
                    dk.put_transposed(of_keys, dscores, queries);
                }
            });
        });
    }
}

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

/// Softmax of the first `visible` values; the others become 0.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(crate) fn softmax(row: &mut [f32], visible: usize) {
    let (row, masked) = row.split_at_mut(visible);
    masked.fill(0.0);
    let max = lanes(row, row, f32::NEG_INFINITY, |max, x, _| max.max(x))
        .into_iter()
        .fold(f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let total: f32 = lanes(row, row, 0.0, |sum, x, _| sum + x).into_iter().sum();
    let factor = 1.0 / total;
    for value in row.iter_mut() {
        *value *= factor;
    }
}

/// `dS = P (dP - Σ dP P)` of the first `visible` values, in place of `dP`; the others become 0.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax_backward(probabilities: &[f32], dprobabilities: &mut [f32], visible: usize) {
    let (dprobabilities, masked) = dprobabilities.split_at_mut(visible);
    masked.fill(0.0);
    let probabilities = &probabilities[..visible];
    let mean: f32 = lanes(probabilities, dprobabilities, 0.0, |sum, p, dp| sum + p * dp).into_iter().sum();
    for (dp, p) in dprobabilities.iter_mut().zip(probabilities) {
        *dp = p * (*dp - mean);
    }
}

/// Folds pairs of values in 16 lanes, which compilers vectorise.
#[inline(always)]
fn lanes(xs: &[f32], ys: &[f32], first: f32, fold: impl Fn(f32, f32, f32) -> f32) -> [f32; 16] {
    let (xs, xs_rest) = xs.as_chunks::<16>();
    let (ys, ys_rest) = ys.as_chunks::<16>();
    let mut lanes = [first; 16];
    for (xs, ys) in xs.iter().zip(ys) {
        for lane in 0..16 {
            lanes[lane] = fold(lanes[lane], xs[lane], ys[lane]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(xs_rest.iter().zip(ys_rest)) {
        *lane = fold(*lane, *x, *y);
    }
    lanes
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
                assert!((a - b).abs() <= 4e-6 * largest.max(1.0), "{name}: {a} and {b}, {mask:?}, p {p}");
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
