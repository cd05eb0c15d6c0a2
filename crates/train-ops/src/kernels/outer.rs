use std::cell::RefCell;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Block;
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
    let mut transposed = Aligned::zeros(r * rows);
    for (row, left) in left.chunks_exact(r).enumerate() {
        for (index, value) in left.iter().enumerate() {
            transposed[index * rows + row] = value.to_bits();
        }
    }
    let width = isa.panel_width();
    let columns: Vec<Vec<f32>> = (0..n)
        .into_par_iter()
        .step_by(PANELS * width)
        .map(|first| {
            let columns = (PANELS * width).min(n - first);
            let mut sums = vec![0.0; r * columns];
            PACKED.with_borrow_mut(|packed| {
                for begin in (0..rows).step_by(DEPTH) {
                    let depth = DEPTH.min(rows - begin);
                    pack(packed, right, n, begin..begin + depth, first..first + columns, width, mask);
                    let block = Block {
                        rows: r,
                        columns,
                        units: depth,
                        a: transposed[begin..].as_ptr(),
                        a_stride: rows,
                        b: packed.as_ptr(),
                        panel_stride: depth * width,
                        from: sums.as_ptr(),
                        from_stride: columns,
                        to: sums.as_mut_ptr(),
                        to_stride: columns,
                    };
                    // SAFETY: `transposed` has `r` rows of `rows >= begin + depth` units, `packed` a panel of `depth` rows for
                    // each of `width` columns, and `sums` `r` rows of `columns`; the processor has `isa`.
                    #[allow(unsafe_code)]
                    unsafe {
                        block.run(isa, Precision::F32);
                    }
                }
            });
            sums
        })
        .collect();
    for (index, sums) in columns.iter().enumerate() {
        let first = index * PANELS * width;
        for (row, sums) in sums.chunks_exact(sums.len() / r).enumerate() {
            result[row * n + first..][..sums.len()].copy_from_slice(sums);
        }
    }
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
    let mut values = [0.0; PANELS * 32];
    let values = &mut values[..PANELS * width];
    for (index, row) in rows.enumerate() {
        values[..columns.len()].copy_from_slice(&right[row * n..][columns.clone()]);
        values[columns.len()..].fill(0.0);
        if let Some(mask) = mask {
            mask.apply_part(row, columns.start, values);
        }
        for (panel, values) in values.chunks_exact(width).enumerate() {
            let to = &mut packed[panel * depth * width + index * width..][..width];
            for (to, value) in to.iter_mut().zip(values) {
                *to = value.to_bits();
            }
        }
    }
}
