use std::cell::RefCell;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Block;
use super::product::Shared;
use super::{Isa, Precision};
use crate::dropout::Mask;

/// Rows that are summed at a time.
const DEPTH: usize = 256;
/// Panels in a task.
const PANELS: usize = 2;

thread_local! {
    static PACKED: RefCell<Aligned> = RefCell::new(Aligned::zeros(0));
}

/// `(r, n)`: `leftᵀ (mask ∘ right)` for `left` `(rows, r)` and `right` `(rows, n)`, where `r` is small. The gradient of an
/// adapter's weight, a sum over all rows; each element is summed in their order.
pub(crate) fn outer_sum(isa: Isa, left: &[f32], right: &[f32], rows: usize, mask: Option<&Mask>) -> Vec<f32> {
    let (r, n) = (left.len() / rows.max(1), right.len() / rows.max(1));
    assert!(left.len() == rows * r && right.len() == rows * n, "shapes of a sum of outer products");
    let mut result = vec![0.0; r * n];
    if result.is_empty() || rows == 0 {
        return result;
    }
    let width = isa.panel_width();
    let shared = Shared(result.as_mut_ptr());
    (0..n).into_par_iter().step_by(PANELS * width).for_each(|first| {
        let columns = first..n.min(first + PANELS * width);
        PACKED.with_borrow_mut(|packed| {
            for begin in (0..rows).step_by(DEPTH) {
                let depth = DEPTH.min(rows - begin);
                pack(packed, right, n, begin..begin + depth, columns.clone(), width, mask);
                // SAFETY: this task alone touches its columns of the result. `left` is read transposed: unit `k` of row
                // `i` is element `i` of its row `begin + k`, of which there are `depth`; `packed` has a panel of `depth`
                // rows for each of `width` columns; the processor has `isa`.
                #[allow(unsafe_code)]
                unsafe {
                    let to = shared.pointer().add(first);
                    Block {
                        rows: r,
                        columns: columns.len(),
                        units: depth,
                        a: left[begin * r..].as_ptr().cast(),
                        a_stride: 1,
                        a_step: r,
                        b: packed.as_ptr(),
                        panel_stride: depth * width,
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

/// Copies some rows and columns of `right` into panels, with the mask applied.
fn pack(
    packed: &mut Aligned,
    right: &[f32],
    n: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    width: usize,
    mask: Option<&Mask>,
) {
    let depth = rows.len();
    packed.reserve(PANELS * depth * width);
    let packed = packed.values_mut();
    let mut values = [0.0; PANELS * 32];
    let values = &mut values[..PANELS * width];
    for (index, row) in rows.enumerate() {
        values[..columns.len()].copy_from_slice(&right[row * n..][columns.clone()]);
        if let Some(mask) = mask {
            mask.apply_part(row, columns.start, values);
        }
        for (panel, values) in values.chunks_exact(width).enumerate() {
            packed[panel * depth * width + index * width..][..width].copy_from_slice(values);
        }
    }
}
