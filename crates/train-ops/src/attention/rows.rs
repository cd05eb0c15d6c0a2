//! Attention forward and backward, head by head, on rows of host memory.

use std::cell::RefCell;
use std::ops::Range;

use cpu_kernels::{
    Buffer, DropoutMask, Isa, Panels, SharedOutput, Strided, small_product, softmax, softmax_gradient,
};
use rayon::prelude::*;

use super::{AttentionMask, HEAD_BITS, KeyLengths, Sizes};
use crate::{Dropout, ForwardContext, Result, host};

/// Attention of one pass, on rows of host memory.
pub(crate) struct AttentionRows {
    isa: Isa,
    pub(super) sizes: Sizes,
    mask: AttentionMask,
    /// The number of keys of each sample that are not padding; `None` if there is no padding.
    lengths: Option<KeyLengths>,
    pub(super) dropout: Option<DropoutMask>,
}

thread_local! {
    /// Packed factors, and rows of scores.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        panels: [Panels::default(), Panels::default()],
        rows: [Vec::new(), Vec::new()],
    });
}

struct Scratch {
    panels: [Panels; 2],
    rows: [Vec<f32>; 2],
}

impl AttentionRows {
    pub(crate) fn new(
        sizes: Sizes,
        mask: AttentionMask,
        lengths: Option<&KeyLengths>,
        dropout: &Dropout,
        ctx: &ForwardContext,
    ) -> Result<Self> {
        if let Some(lengths) = lengths {
            lengths.check(sizes.batch, sizes.keys)?;
        }
        // The probabilities seen as (batch, heads * queries, keys): one dropout row for each head and query.
        let dropout = dropout.mask(&[sizes.batch, sizes.heads << HEAD_BITS, sizes.keys], ctx)?;
        Ok(Self { isa: host::isa()?, sizes, mask, lengths: lengths.cloned(), dropout })
    }

    /// Whether some keys are padding.
    pub(super) fn is_padded(&self) -> bool {
        self.lengths.is_some()
    }

    /// The keys of the sample of head number `index`, counted over the batch, without padding.
    fn keys(&self, index: usize) -> usize {
        self.lengths.as_ref().map_or(self.sizes.keys, |lengths| lengths.of(index / self.sizes.heads))
    }

    /// How many keys, counted from the first, a query sees in head number `index`.
    pub(super) fn visible(&self, index: usize, query: usize) -> usize {
        self.mask.visible(query, self.keys(index))
    }

    /// The blocks of queries in head number `index`; see [`AttentionMask::blocks`].
    fn blocks(&self, index: usize) -> Vec<(Range<usize>, usize)> {
        self.mask.blocks(self.sizes.queries, self.keys(index))
    }

    /// Multiplies the probabilities of one head, or their gradient, by the dropout mask.
    fn drop_out(&self, index: usize, rows: &mut [f32]) {
        if let Some(mask) = &self.dropout {
            for (query, row) in rows.chunks_exact_mut(self.sizes.stride()).enumerate() {
                let visible = self.visible(index, query);
                mask.apply_part((index << HEAD_BITS) + query, 0, &mut row[..visible]);
            }
        }
    }

    /// Computes `context` from queries, keys and values. If `keep`, returns what the backward pass needs: the probabilities
    /// before dropout, `(batch, heads, queries, keys)` in rows of [`Sizes::stride`], zero where masked.
    pub(crate) fn forward(&self, [q, k, v]: [&[f32]; 3], context: &mut [f32], keep: bool) -> Option<Buffer> {
        let s = self.sizes;
        assert!(
            context.len() == q.len() && q.len() == s.batch * s.queries * s.width(),
            "context of attention"
        );
        let output = SharedOutput::new(context, s.width());
        let (stride, size) = (s.stride(), s.queries * s.stride());
        let head =
            |index: usize, probabilities: &mut [f32], panels: &mut [Panels; 2], dropped: &mut Vec<f32>| {
                let [keys, values] = panels;
                let keys = keys.pack_transposed(self.isa, s.head(k, s.keys, index, 0..s.keys), s.scale());
                let values = values.pack(self.isa, s.head(v, s.keys, index, 0..s.keys), 1.0);
                for (block, visible) in self.blocks(index) {
                    let rows = &mut probabilities[block.start * stride..block.end * stride];
                    small_product(rows, stride, visible, s.head(q, s.queries, index, block.clone()), keys);
                    for (query, row) in block.zip(rows.chunks_exact_mut(stride)) {
                        softmax(self.isa, row, self.visible(index, query));
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
                for (block, visible) in self.blocks(index) {
                    let rows = &probabilities[block.start * stride..block.end * stride];
                    let first = s.first(s.queries, index) + block.start * s.width();
                    // SAFETY: `first` is the first value of this block of this head of `context`, whose length was checked;
                    // other tasks work on other heads.
                    #[allow(unsafe_code)]
                    unsafe {
                        output.write_product(first, Strided::new(rows, block.len(), stride, visible), values);
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

    /// With `P` the probabilities, `D` the dropout mask and `P' = D P`: `dv = P'ᵀ do`, `dP' = do vᵀ`,
    /// `dS = (P' dP' - P rowsum(P' dP')) / sqrt(d)`, `dq = dS k`, `dk = dSᵀ q`. Only `P'` depends on the mask,
    /// so the mask is computed once.
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
        let [dq, dk, dv] = [dq, dk, dv].map(|to| SharedOutput::new(to, s.width()));
        let (stride, size) = (s.stride(), s.queries * s.stride());
        probabilities.par_chunks(size.max(1)).enumerate().for_each(|(index, probabilities)| {
            SCRATCH.with_borrow_mut(|Scratch { panels: [panels, _], rows: [dropped, dscores] }| {
                let all = |values, tokens| s.head(values, tokens, index, 0..tokens);
                let (of_queries, of_keys) = (s.first(s.queries, index), s.first(s.keys, index));
                dropped.clear();
                dropped.extend_from_slice(probabilities);
                self.drop_out(index, dropped);
                let columns = Strided::new(dropped, s.queries, stride, s.keys);
                let packed = panels.pack(self.isa, all(dcontext, s.queries), 1.0);
                // SAFETY (here and below): the first value of this head of a gradient, whose length was checked; other
                // tasks work on other heads.
                #[allow(unsafe_code)]
                unsafe {
                    dv.write_at_b(of_keys, columns, packed);
                }

                dscores.resize(size, 0.0);
                let values = panels.pack_transposed(self.isa, all(v, s.keys), 1.0);
                for (block, visible) in self.blocks(index) {
                    let rows = &mut dscores[block.start * stride..block.end * stride];
                    small_product(rows, stride, visible, s.head(dcontext, s.queries, index, block), values);
                }
                let rows = dscores.chunks_exact_mut(stride).zip(probabilities.chunks_exact(stride));
                for (query, ((dscores, p), dropped)) in rows.zip(dropped.chunks_exact(stride)).enumerate() {
                    let visible = self.visible(index, query);
                    softmax_gradient(self.isa, p, dropped, dscores, visible, s.scale());
                }
                let keys = panels.pack(self.isa, all(k, s.keys), 1.0);
                for (block, visible) in self.blocks(index) {
                    let rows = &dscores[block.start * stride..block.end * stride];
                    let rows = Strided::new(rows, block.len(), stride, visible);
                    #[allow(unsafe_code)]
                    unsafe {
                        dq.write_product(of_queries + block.start * s.width(), rows, keys);
                    }
                }
                let queries = panels.pack(self.isa, all(q, s.queries), 1.0);
                let dscores = Strided::new(dscores, s.queries, stride, s.keys);
                #[allow(unsafe_code)]
                unsafe {
                    dk.write_at_b(of_keys, dscores, queries);
                }
            });
        });
    }
}
