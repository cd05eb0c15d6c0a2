//! Attention forward and backward, head by head, on rows of host memory.

use std::cell::RefCell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{AttentionMask, HEAD_BITS, Sizes};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Columns, Isa, Panels, Place, to_rows};
use crate::math::exp;
use crate::{Dropout, Pass, Result};

/// Attention of one pass, on rows of host memory.
pub(crate) struct AttentionRows {
    sizes: Sizes,
    mask: AttentionMask,
    pub(super) dropout: Option<Mask>,
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
    /// `dv = P'ᵀ do`, `dP = D (do vᵀ)`, `dS = P (dP - rowsum(dP P)) / sqrt(d)`, `dq = dS k`, `dk = dSᵀ q`.
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
                    softmax_backward(p, dscores, self.mask.visible(query, s.keys), s.scale());
                }
                let keys = panels.pack(all(k, s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &dscores[block.start * s.keys..block.end * s.keys];
                    let rows = Columns::new(rows, block.len(), s.keys, visible);
                    #[allow(unsafe_code)]
                    unsafe {
                        dq.put(of_queries + block.start * s.width(), rows, keys);
                    }
                }
                let queries = panels.pack(all(q, s.queries), 1.0);
                let dscores = Columns::new(dscores, s.queries, s.keys, s.keys);
                #[allow(unsafe_code)]
                unsafe {
                    dk.put_transposed(of_keys, dscores, queries);
                }
            });
        });
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
    for value in row.iter_mut() {
        *value /= total;
    }
}

/// `scale * P (dP - Σ dP P)` of the first `visible` values, in place of `dP`; the others become 0.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax_backward(probabilities: &[f32], dprobabilities: &mut [f32], visible: usize, scale: f32) {
    let (dprobabilities, masked) = dprobabilities.split_at_mut(visible);
    masked.fill(0.0);
    let probabilities = &probabilities[..visible];
    let mean: f32 = lanes(probabilities, dprobabilities, 0.0, |sum, p, dp| sum + p * dp).into_iter().sum();
    for (dp, p) in dprobabilities.iter_mut().zip(probabilities) {
        *dp = p * (*dp - mean) * scale;
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
