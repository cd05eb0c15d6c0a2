use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Block;
use super::kept::KeptRows;
use super::product::Shared;
use super::tile::Factors;
use super::{Isa, Precision, Rows};
use crate::dropout::KeptBits;

/// Rows that are summed at a time: as many as the nearest cache holds of the columns of a task.
const DEPTH: usize = 32;
/// Panels in a task.
const PANELS: usize = 6;

thread_local! {
    static PACKED: RefCell<Aligned> = RefCell::new(Aligned::zeros(0));
}

/// `(r, n)`: `leftᵀ (kept ∘ right)` for `left` `(rows, r)` and `right` `(rows, n)`, where `r` is small. The gradient of an
/// adapter's weight, a sum over all rows; each element is summed in their order.
pub(crate) fn outer_sum(
    isa: Isa,
    (left, r): (&[f32], usize),
    right: Rows<'_>,
    kept: Option<&KeptBits>,
) -> Vec<f32> {
    let (rows, n) = (right.count(), right.width());
    assert!(left.len() == rows * r, "shapes of a sum of outer products");
    assert!(kept.is_none_or(|kept| kept.covers(rows, n)), "mask of a sum of outer products");
    let mut result = vec![0.0; r * n];
    if result.is_empty() || rows == 0 {
        return result;
    }
    let width = isa.panel_width();
    // Whole panels are read where they are, if all of their values count.
    let in_place = kept.is_none() && n.is_multiple_of(width);
    let shared = Shared(result.as_mut_ptr());
    (0..n).into_par_iter().step_by(PANELS * width).for_each(|first| {
        let columns = first..n.min(first + PANELS * width);
        PACKED.with_borrow_mut(|packed| {
            for begin in (0..rows).step_by(DEPTH) {
                let depth = DEPTH.min(rows - begin);
                let (b, b_step, panel_stride) = if in_place {
                    (right.values()[begin * right.stride() + first..].as_ptr().cast(), right.stride(), width)
                } else {
                    pack(isa, packed, right, begin..begin + depth, columns.clone(), kept);
                    (packed.as_ptr(), width, depth * width)
                };
                // SAFETY: this task alone touches its columns of the result. `left` is read transposed: unit `k` of row
                // `i` is element `i` of its row `begin + k`, of which there are `depth`; `b` has a panel of `depth` rows
                // for each of `width` columns, in place or packed; the processor has `isa`.
                #[allow(unsafe_code)]
                unsafe {
                    let to = shared.pointer().add(first);
                    Block {
                        rows: r,
                        columns: columns.len(),
                        first: None,
                        factors: Factors {
                            units: depth,
                            a: left[begin * r..].as_ptr().cast(),
                            a_stride: 1,
                            a_step: r,
                            b,
                            b_step,
                            panel_stride,
                        },
                        next: b,
                        from: to,
                        from_stride: n,
                        to,
                        to_stride: n,
                    }
                    .run(isa, Precision::F32);
                }
            }
        });
    });
    result
}

/// Copies some rows and columns of `right` into panels, zeros in place of values that do not count.
fn pack(
    isa: Isa,
    packed: &mut Aligned,
    right: Rows<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    kept: Option<&KeptBits>,
) {
    let (right, stride) = (right.values(), right.stride());
    let width = isa.panel_width();
    let size = rows.len() * width;
    packed.reserve(PANELS * size);
    let panels = packed.values_mut().chunks_exact_mut(size);
    for (panel, first) in panels.zip(columns.clone().step_by(width)) {
        let count = width.min(columns.end - first);
        let Some(kept) = kept else {
            for (to, row) in panel.chunks_exact_mut(width).zip(rows.clone()) {
                let (to, rest) = to.split_at_mut(count);
                to.copy_from_slice(&right[row * stride + first..][..count]);
                rest.fill(0.0);
            }
            continue;
        };
        let (bits, bits_stride) = kept.from(rows.start, first);
        if count < width {
            panel.fill(0.0);
        }
        // SAFETY: `right` has a row for each of `rows`, `kept` has its bits, and the panel as many rows of `width`;
        // the processor has `isa`.
        #[allow(unsafe_code)]
        unsafe {
            KeptRows {
                rows: rows.len(),
                columns: count,
                bits: bits.as_ptr(),
                bits_stride,
                from: right[rows.start * stride + first..].as_ptr(),
                from_stride: stride,
                to: panel.as_mut_ptr(),
                to_stride: width,
            }
            .copy(isa);
        }
    }
}
