//! Small products on one thread, of matrices that are columns of larger ones: attention, one head at a time.

// SAFETY (of every block in this file): a `Strided` lies within its slice, which its constructor checks; results are
// exclusive slices, or columns of a `SharedOutput` for which the caller vouches.
#![allow(unsafe_code)]

use crate::aligned::Aligned;
use crate::block::Block;
use crate::shared_pointer::SharedPointer;
use crate::tile::Factors;
use crate::{Isa, Precision};

/// Some columns of some rows of a matrix that is stored row by row.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    values: &'a [f32],
    rows: usize,
    stride: usize,
    columns: usize,
}

impl<'a> Strided<'a> {
    /// The first `columns` values of each of `rows` rows, which begin `stride` apart in `values`.
    ///
    /// # Panics
    /// If `values` are too few, or rows overlap.
    pub fn new(values: &'a [f32], rows: usize, stride: usize, columns: usize) -> Self {
        assert!(has_rows(values.len(), rows, stride, columns), "strided rows");
        Self { values, rows, stride, columns }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.columns]
    }
}

/// Whether `len` values have `rows` rows of `columns` values that begin `stride` apart and do not overlap.
fn has_rows(len: usize, rows: usize, stride: usize, columns: usize) -> bool {
    let needed = |gaps: usize| gaps.checked_mul(stride)?.checked_add(columns);
    columns <= stride
        && rows.checked_sub(1).is_none_or(|gaps| needed(gaps).is_some_and(|needed| needed <= len))
}

/// A small f32 matrix packed into panels, `(k, n)`. Its memory is reused by the next matrix that is packed.
pub struct Panels {
    isa: Isa,
    memory: Aligned,
    k: usize,
    n: usize,
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Panels({} x {}, {})", self.k, self.n, self.isa.name())
    }
}

impl Default for Panels {
    /// Panels of an empty matrix.
    fn default() -> Self {
        Self { isa: Isa::portable(), memory: Aligned::zeros(0), k: 0, n: 0 }
    }
}

impl Panels {
    /// Packs `scale * b`.
    pub fn pack(&mut self, isa: Isa, b: Strided<'_>, scale: f32) -> &Self {
        let width = isa.panel_width();
        (self.isa, self.k, self.n) = (isa, b.rows, b.columns);
        self.memory.reserve(self.n.next_multiple_of(width) * self.k);
        let panels = self.memory.values_mut().chunks_exact_mut(self.k.max(1) * width);
        for (panel, first) in panels.zip((0..self.n).step_by(width)) {
            let columns = width.min(self.n - first);
            for (k, to) in panel.chunks_exact_mut(width).enumerate() {
                let row = &b.row(k)[first..first + columns];
                for (to, value) in to.iter_mut().zip(row) {
                    *to = scale * value;
                }
                to[columns..].fill(0.0);
            }
        }
        self
    }

    /// Packs `scale * bᵀ`.
    pub fn pack_transposed(&mut self, isa: Isa, b: Strided<'_>, scale: f32) -> &Self {
        let width = isa.panel_width();
        (self.isa, self.k, self.n) = (isa, b.columns, b.rows);
        self.memory.reserve(self.n.next_multiple_of(width) * self.k);
        let panels = self.memory.values_mut().chunks_exact_mut(self.k.max(1) * width);
        for (panel, first) in panels.zip((0..self.n).step_by(width)) {
            if first + width > self.n {
                panel.fill(0.0);
            }
            for column in 0..width.min(self.n - first) {
                for (to, value) in panel[column..].iter_mut().step_by(width).zip(b.row(first + column)) {
                    *to = scale * value;
                }
            }
        }
        self
    }
}

/// The first `columns` columns of `a b`, to rows of `to` that begin `to_stride` apart. `a` may have fewer columns than `b` has
/// rows: the other rows of `b` are left out.
///
/// # Panics
/// If shapes do not agree or `to` is too short.
pub fn small_product(to: &mut [f32], to_stride: usize, columns: usize, a: Strided<'_>, b: &Panels) {
    assert!(has_rows(to.len(), a.rows, to_stride, columns), "result of a small product");
    unsafe { run(to.as_mut_ptr(), to_stride, columns, (a, a.rows, a.columns, a.stride, 1), b) }
}

/// A matrix of which several threads write different columns.
#[derive(Debug)]
pub struct SharedOutput {
    shared: SharedPointer,
    stride: usize,
}

impl SharedOutput {
    /// The matrix `to`, whose rows begin `stride` apart.
    pub fn new(to: &mut [f32], stride: usize) -> Self {
        Self { shared: SharedPointer(to.as_mut_ptr()), stride }
    }

    /// Writes `a b`; its first element goes to element number `first` of the matrix.
    ///
    /// # Safety
    /// The matrix has as many rows from `first` on as `a`, no other thread accesses these columns of them, and the slice that
    /// it was made of is still borrowed.
    pub unsafe fn write_product(&self, first: usize, a: Strided<'_>, b: &Panels) {
        unsafe {
            let to = self.shared.pointer().add(first);
            run(to, self.stride, b.n, (a, a.rows, a.columns, a.stride, 1), b);
        }
    }

    /// Writes `aᵀ b`; its first element goes to element number `first` of the matrix.
    ///
    /// # Safety
    /// As for [`write_product`](Self::write_product), with as many rows as `a` has columns.
    pub unsafe fn write_at_b(&self, first: usize, a: Strided<'_>, b: &Panels) {
        unsafe {
            let to = self.shared.pointer().add(first);
            run(to, self.stride, b.n, (a, a.columns, a.rows, 1, a.stride), b);
        }
    }
}

/// # Safety
/// `to` is valid for writing `columns` values of `rows` rows, and nothing else accesses them meanwhile. `a` has `rows` rows of
/// `words` values, `a_stride` from row to row and `a_step` from value to value.
unsafe fn run(
    to: *mut f32,
    to_stride: usize,
    columns: usize,
    (a, rows, words, a_stride, a_step): (Strided<'_>, usize, usize, usize, usize),
    b: &Panels,
) {
    assert!(words <= b.k && columns <= b.n, "shapes of a small product");
    let (width, panel_stride) = (b.isa.panel_width(), b.k * b.isa.panel_width());
    for first in (0..columns).step_by(ZEROS.len()) {
        let block = Block {
            rows,
            columns: ZEROS.len().min(columns - first),
            first: None,
            factors: Factors {
                words,
                a: a.values.as_ptr().cast(),
                a_stride,
                a_step,
                b: b.memory[first / width * panel_stride..].as_ptr(),
                b_step: width,
                panel_stride,
            },
            next: b.memory.as_ptr().wrapping_add((first + ZEROS.len()) / width * panel_stride),
            from: ZEROS.as_ptr(),
            from_stride: 0,
            to: unsafe { to.add(first) },
            to_stride,
        };
        unsafe { block.run(b.isa, Precision::F32) }
    }
}

/// Initial sums for this many columns: whole panels of every width.
static ZEROS: [f32; 1 << 10] = [0.0; 1 << 10];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_without_rows_is_packed_after_a_larger_one_and_its_product_is_zero() {
        let isa = Isa::active().unwrap();
        let values = [1.0; 40];
        let mut panels = Panels::default();
        panels.pack(isa, Strided::new(&values, 4, 10, 10), 1.0);
        panels.pack_transposed(isa, Strided::new(&values, 3, 10, 0), 1.0);
        let mut to = [5.0; 6];
        small_product(&mut to, 3, 3, Strided::new(&values, 2, 10, 0), &panels);
        assert_eq!(to, [0.0; 6]);
    }

    #[test]
    fn rows_beyond_the_values_are_noticed_even_if_their_extent_overflows() {
        assert!(has_rows(0, 0, 5, 5) && has_rows(11, 3, 4, 3) && has_rows(3, 1, 4, 3));
        assert!(!has_rows(10, 3, 4, 3) && !has_rows(100, 3, 4, 5));
        let half = 1 << (usize::BITS / 2);
        assert!(!has_rows(3, half + 1, half, 3) && !has_rows(3, 2, usize::MAX, 3));
    }

    #[test]
    fn a_small_product_is_right_beyond_the_columns_of_one_block() {
        let (rows, k, n) = (3, 2, (1 << 10) + 37);
        let a: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 1000) as f32).collect();
        for isa in Isa::supported() {
            let mut panels = Panels::default();
            let mut got = vec![f32::NAN; rows * n];
            let packed = panels.pack(isa, Strided::new(&b, k, n, n), 1.0);
            small_product(&mut got, n, n, Strided::new(&a, rows, k, k), packed);
            for (index, got) in got.iter().enumerate() {
                let (row, column) = (index / n, index % n);
                let expected: f32 = (0..k).map(|k_| a[row * k + k_] * b[k_ * n + column]).sum();
                assert_eq!(*got, expected, "{isa:?} at ({row}, {column})");
            }
        }
    }
}
