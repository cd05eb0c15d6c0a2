//! Attention forward and backward, head by head, on rows of host memory.

use std::cell::RefCell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{AttentionMask, HEAD_BITS, LANES, Sizes};
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
            for (query, row) in rows.chunks_exact_mut(self.sizes.stride()).enumerate() {
                let visible = self.mask.visible(query, self.sizes.keys);
                mask.apply_part((index << HEAD_BITS) + query, 0, &mut row[..visible]);
            }
        }
    }

    /// Computes `context` from queries, keys and values. Returns what the backward pass needs, if it is to be kept: softmax
    /// of the scores before dropout, `(batch, heads, queries, keys)` in rows of [`Sizes::stride`], zero where masked.
    pub(crate) fn forward(&self, [q, k, v]: [&[f32]; 3], context: &mut [f32], keep: bool) -> Option<Buffer> {
        let s = self.sizes;
        assert!(
            context.len() == q.len() && q.len() == s.batch * s.queries * s.width(),
            "context of attention"
        );
        let place = Place::all(context, s.width());
        let (stride, size) = (s.stride(), s.queries * s.stride());
        let head =
            |index: usize, probabilities: &mut [f32], panels: &mut [Panels; 2], dropped: &mut Vec<f32>| {
                let [keys, values] = panels;
                let keys = keys.pack_transposed(s.head(k, s.keys, index, 0..s.keys), s.scale());
                let values = values.pack(s.head(v, s.keys, index, 0..s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &mut probabilities[block.start * stride..block.end * stride];
                    to_rows(rows, stride, visible, s.head(q, s.queries, index, block.clone()), keys);
                    for (query, row) in block.zip(rows.chunks_exact_mut(stride)) {
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
                    let rows = &probabilities[block.start * stride..block.end * stride];
                    let first = s.first(s.queries, index) + block.start * s.width();
                    // SAFETY: `first` is the first value of this block of this head of `context`, whose length was checked;
                    // other tasks work on other heads.
                    #[allow(unsafe_code)]
                    unsafe {
                        place.put(first, Columns::new(rows, block.len(), stride, visible), values);
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
    /// `dv = P'ᵀ do`, `dP' = do vᵀ`, `dS = (P' dP' - P rowsum(P' dP')) / sqrt(d)`, `dq = dS k`, `dk = dSᵀ q`. The mask is
    /// in `P'` alone, so its random numbers are drawn once.
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
        let (stride, size) = (s.stride(), s.queries * s.stride());
        probabilities.par_chunks(size.max(1)).enumerate().for_each(|(index, probabilities)| {
            SCRATCH.with_borrow_mut(|Scratch { panels: [panels, _], rows: [dropped, dscores] }| {
                let all = |values, tokens| s.head(values, tokens, index, 0..tokens);
                let (of_queries, of_keys) = (s.first(s.queries, index), s.first(s.keys, index));
                dropped.clear();
                dropped.extend_from_slice(probabilities);
                self.drop_out(index, dropped);
                let columns = Columns::new(dropped, s.queries, stride, s.keys);
                let packed = panels.pack(all(dcontext, s.queries), 1.0);
                // SAFETY (here and below): the first value of this head of a gradient, whose length was checked; other
                // tasks work on other heads.
                #[allow(unsafe_code)]
                unsafe {
                    dv.put_transposed(of_keys, columns, packed);
                }

                dscores.resize(size, 0.0);
                let values = panels.pack_transposed(all(v, s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &mut dscores[block.start * stride..block.end * stride];
                    to_rows(rows, stride, visible, s.head(dcontext, s.queries, index, block), values);
                }
                let rows = dscores.chunks_exact_mut(stride).zip(probabilities.chunks_exact(stride));
                for (query, ((dscores, p), dropped)) in rows.zip(dropped.chunks_exact(stride)).enumerate() {
                    softmax_backward(p, dropped, dscores, self.mask.visible(query, s.keys), s.scale());
                }
                let keys = panels.pack(all(k, s.keys), 1.0);
                for (block, visible) in self.mask.blocks(s.queries, s.keys) {
                    let rows = &dscores[block.start * stride..block.end * stride];
                    let rows = Columns::new(rows, block.len(), stride, visible);
                    #[allow(unsafe_code)]
                    unsafe {
                        dq.put(of_queries + block.start * s.width(), rows, keys);
                    }
                }
                let queries = panels.pack(all(q, s.queries), 1.0);
                let dscores = Columns::new(dscores, s.queries, stride, s.keys);
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
    // Where the row is long enough, whole vectors: the last one ends in scores that are nothing beside the largest.
    let used = visible.next_multiple_of(LANES).min(row.len());
    row[visible..used].fill(f32::NEG_INFINITY);
    let values = &mut row[..used];
    // Not `f32::max`, which looks for NaN in both; one among the scores makes the row NaN below.
    let larger = |max: f32, x: f32| if x > max { x } else { max };
    let max = halve(lanes(values, values, f32::NEG_INFINITY, |max, x, _| larger(max, x)), larger);
    for value in values.iter_mut() {
        *value = exp(*value - max);
    }
    let scale = 1.0 / halve(lanes(values, values, 0.0, |sum, x, _| sum + x), |sum, x| sum + x);
    row[visible..].fill(0.0);
    for value in &mut row[..used] {
        *value *= scale;
    }
}

/// `scale * (P' dP' - P Σ P' dP')` of the first `visible` values, in place of `dP'`; the others become 0.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax_backward(
    probabilities: &[f32],
    dropped: &[f32],
    dprobabilities: &mut [f32],
    visible: usize,
    scale: f32,
) {
    dprobabilities[visible..].fill(0.0);
    let used = visible.next_multiple_of(LANES).min(probabilities.len());
    let (probabilities, dropped) = (&probabilities[..used], &dropped[..used]);
    let dprobabilities = &mut dprobabilities[..used];
    let mean = halve(lanes(dropped, dprobabilities, 0.0, |sum, p, dp| sum + p * dp), |sum, x| sum + x);
    for (dp, (p, dropped)) in dprobabilities.iter_mut().zip(probabilities.iter().zip(dropped)) {
        *dp = (dropped * *dp - p * mean) * scale;
    }
}

/// Folds pairs of values in lanes, which compilers vectorise.
#[inline(always)]
fn lanes(xs: &[f32], ys: &[f32], first: f32, fold: impl Fn(f32, f32, f32) -> f32) -> [f32; LANES] {
    let (xs, xs_rest) = xs.as_chunks::<LANES>();
    let (ys, ys_rest) = ys.as_chunks::<LANES>();
    let mut lanes = [first; LANES];
    for (xs, ys) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            lanes[lane] = fold(lanes[lane], xs[lane], ys[lane]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(xs_rest.iter().zip(ys_rest)) {
        *lane = fold(*lane, *x, *y);
    }
    lanes
}

/// Folds lanes into one, half of them at a time.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = fold(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
