use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::block::Block;
use crate::masked_copy::MaskedCopy;
use crate::shared_pointer::SharedPointer;
use crate::tile::Factors;
use crate::{Isa, MaskBits, Precision, Rows};

/// Number of rows that are summed in one pass: the columns of a task of this many rows fit the first-level
/// cache.
const DEPTH: usize = 32;
/// Panels in a task.
const PANELS: usize = 6;

thread_local! {
    static PACKED: RefCell<Aligned> = RefCell::new(Aligned::zeros(0));
}

/// `aᵀ (mask ∘ b)`, of shape `(r, n)`, for `a` `(rows, r)` with a small `r` and `b` `(rows, n)`: the gradient of an adapter's
/// weight. Each element is summed over the rows in their order.
///
/// # Panics
/// If shapes do not agree.
pub fn at_b(isa: Isa, (a, r): (&[f32], usize), b: Rows<'_>, mask: Option<&MaskBits>) -> Vec<f32> {
    let (rows, n) = (b.count(), b.width());
    assert!(a.len() == rows * r, "shapes of a transposed product");
    assert!(mask.is_none_or(|mask| mask.covers(rows, n)), "mask of a transposed product");
    let mut result = vec![0.0; r * n];
    if result.is_empty() || rows == 0 {
        return result;
    }
    let width = isa.panel_width();
    // Without a mask, whole panels are read in place.
    let in_place = mask.is_none() && n.is_multiple_of(width);
    let shared = SharedPointer(result.as_mut_ptr());
    (0..n).into_par_iter().step_by(PANELS * width).for_each(|first| {
        let columns = first..n.min(first + PANELS * width);
        PACKED.with_borrow_mut(|packed| {
            for begin in (0..rows).step_by(DEPTH) {
                let depth = DEPTH.min(rows - begin);
                let (panels, b_step, panel_stride) = if in_place {
                    (b.values()[begin * b.stride() + first..].as_ptr().cast(), b.stride(), width)
                } else {
                    pack(isa, packed, b, begin..begin + depth, columns.clone(), mask);
                    (packed.as_ptr(), width, depth * width)
                };
                // SAFETY: this task alone accesses its columns of the result. `a` is read transposed: word `k` of row `i` is
                // element `i` of its row `begin + k`, of which there are `depth`; `panels` has `depth` rows for each of
                // `width` columns, in place or packed.
                #[allow(unsafe_code)]
                unsafe {
                    let to = shared.pointer().add(first);
                    Block {
                        rows: r,
                        columns: columns.len(),
                        first: None,
                        factors: Factors {
                            words: depth,
                            a: a[begin * r..].as_ptr().cast(),
                            a_stride: 1,
                            a_step: r,
                            b: panels,
                            b_step,
                            panel_stride,
                        },
                        next: panels,
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

/// Packs some rows and columns of `b` into panels, with the mask applied.
fn pack(
    isa: Isa,
    packed: &mut Aligned,
    b: Rows<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    mask: Option<&MaskBits>,
) {
    let (b, stride) = (b.values(), b.stride());
    let width = isa.panel_width();
    let size = rows.len() * width;
    packed.reserve(PANELS * size);
    let panels = packed.values_mut().chunks_exact_mut(size);
    for (panel, first) in panels.zip(columns.clone().step_by(width)) {
        let count = width.min(columns.end - first);
        let Some(mask) = mask else {
            for (to, row) in panel.chunks_exact_mut(width).zip(rows.clone()) {
                let (to, rest) = to.split_at_mut(count);
                to.copy_from_slice(&b[row * stride + first..][..count]);
                rest.fill(0.0);
            }
            continue;
        };
        let (bits, bits_stride) = mask.from(rows.start, first);
        if count < width {
            panel.fill(0.0);
        }
        // SAFETY: `b` has a row for each of `rows`, `mask` has its bits, and the panel as many rows of `width`.
        #[allow(unsafe_code)]
        unsafe {
            MaskedCopy {
                rows: rows.len(),
                columns: count,
                bits: bits.as_ptr(),
                bits_stride,
                from: b[rows.start * stride + first..].as_ptr(),
                from_stride: stride,
                to: panel.as_mut_ptr(),
                to_stride: width,
            }
            .copy(isa);
        }
    }
}
