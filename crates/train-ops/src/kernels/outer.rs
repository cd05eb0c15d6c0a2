use std::cell::RefCell;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Block;
use super::product::Shared;
use super::{Isa, Precision};
use crate::dropout::Mask;

/// Rows that are summed at a time.
const DEPTH: usize = 256;
/// Panels in a task, so that the columns of a row that lie in them are worth a mask.
const PANELS: usize = 6;

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
    let size = rows.len() * width;
    packed.reserve(PANELS * size);
    let mut values = [0.0; PANELS * 32];
    for (index, row) in rows.enumerate() {
        let mut values: &[f32] = {
            let from = &right[row * n..][columns.clone()];
            match mask {
                None if columns.len().is_multiple_of(width) => from,
                _ => {
                    let (of_row, rest) = values.split_at_mut(from.len());
                    of_row.copy_from_slice(from);
                    rest.fill(0.0);
                    if let Some(mask) = mask {
                        mask.apply_part(row, columns.start, of_row);
                    }
                    &values
                }
            }
        };
        for panel in packed.values_mut().chunks_exact_mut(size) {
            let Some((head, rest)) = values.split_at_checked(width) else { break };
            copy(head, &mut panel[index * width..][..width]);
            values = rest;
        }
    }
}

/// Copies a row of a panel.
fn copy(from: &[f32], to: &mut [f32]) {
    // Vectors of a length that the compiler knows: a call for each row would cost more than the copy.
    for (to, from) in to.as_chunks_mut::<16>().0.iter_mut().zip(from.as_chunks::<16>().0) {
        *to = *from;
    }
}
