mod rows;

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::Columns;
use crate::{Dropout, Error, Pass, Result, host};

pub(crate) use rows::{AttentionRows, softmax};

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

    /// From one row of scores to the next: whole vectors.
    fn stride(&self) -> usize {
        self.keys.next_multiple_of(LANES)
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

/// Scores that a vector holds at most.
pub(crate) const LANES: usize = 16;

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
    // Softmax of short types is computed in f32.
    let dtype = if query.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let scores = (q.matmul(&k.t()?)? * (1.0 / (s.head_dim as f64).sqrt()))?.to_dtype(dtype)?;
    let bias: Vec<f32> = (0..s.queries)
        .flat_map(|query| {
            let visible = mask.visible(query, s.keys);
            (0..s.keys).map(move |key| if key < visible { 0.0 } else { f32::MIN })
        })
        .collect();
    let bias = Tensor::from_vec(bias, (s.queries, s.keys), query.device())?.to_dtype(dtype)?;
    let scores = scores.broadcast_add(&bias)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let mut probabilities = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    if let Some(mask) = dropout {
        let mut factors = vec![1.0; s.batch * s.heads * s.queries * s.keys];
        for (row, factors) in factors.chunks_exact_mut(s.keys).enumerate() {
            let (index, query) = (row / s.queries, row % s.queries);
            mask.apply_part((index << HEAD_BITS) + query, 0, factors);
        }
        let factors = Tensor::from_vec(factors, probabilities.shape(), query.device())?.to_dtype(dtype)?;
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

    /// The kernel must agree with candle's operations in f64 in the result and in all three gradients.
    fn agrees_with_composition(queries: usize, keys: usize, mask: AttentionMask, p: f32) {
        // One of a sample, or both.
        for samples in [2, 1] {
            agrees_with_composition_of(samples, queries, keys, mask, p);
        }
    }

    fn agrees_with_composition_of(samples: u64, queries: usize, keys: usize, mask: AttentionMask, p: f32) {
        let (heads, head_dim, batch) = (3, 5, 2);
        let width = heads * head_dim;
        let inputs = [
            var(0.1, (batch, queries, width)),
            var(0.2, (batch, keys, width)),
            var(0.3, (batch, keys, width)),
        ];
        let exact = inputs.each_ref().map(|input| {
            Var::from_tensor(&input.as_detached_tensor().to_dtype(DType::F64).unwrap()).unwrap()
        });
        let dropout = Dropout::new("probs", p).unwrap();
        let pass = Pass::training((0..samples).map(|sample| sample_key(0, 0, sample)).collect::<Vec<_>>());
        let weights = var(0.4, (batch, queries, width)).as_detached_tensor();
        // The context and the gradients of queries, keys and values.
        let run = |[q, k, v]: &[Var; 3]| {
            let context = attention(q, k, v, heads, mask, &dropout, &pass).unwrap();
            let weights = weights.to_dtype(context.dtype()).unwrap();
            let gradients = (&context * weights).unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = [q, k, v].map(|input| gradients.get(input).unwrap().clone());
            [vec![context], gradients.to_vec()]
                .concat()
                .into_iter()
                .map(|tensor| {
                    let tensor = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                    tensor.to_vec1::<f64>().unwrap()
                })
                .collect::<Vec<_>>()
        };
        let names = ["context", "query", "key", "value"];
        for (name, (got, exact)) in names.iter().zip(run(&inputs).into_iter().zip(run(&exact))) {
            let largest = exact.iter().fold(1f64, |largest, value| largest.max(value.abs()));
            for (got, exact) in got.iter().zip(&exact) {
                assert!((got - exact).abs() <= 2e-6 * largest, "{name}: {got}, not {exact}, {mask:?}, p {p}");
            }
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
            mask.apply_part((1 << HEAD_BITS) + 3, 0, &mut row);
            row
        };
        assert_eq!(first(9)[..6], first(6));
    }
}
