//! The products of attention, one head at a time: small matrices that are columns of larger ones.

// SAFETY (of every block in this file): a `Columns` lies within its slice, which its constructor checks; the places that
// are written to are exclusive slices, or columns of a `Place` that its caller vouches for.
#![allow(unsafe_code)]

use super::aligned::Aligned;
use super::block::Block;
use super::product::Shared;
use super::tile::Factors;
use super::{Isa, Precision};

/// Some columns of some rows of a matrix that is stored row by row.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    values: &'a [f32],
    rows: usize,
    stride: usize,
    columns: usize,
}

impl<'a> Columns<'a> {
    /// `rows` rows of `values`, `stride` apart, of which each gives its first `columns` values.
    pub(crate) fn new(values: &'a [f32], rows: usize, stride: usize, columns: usize) -> Self {
        assert!(columns <= stride && (rows == 0 || values.len() >= (rows - 1) * stride + columns), "columns");
        Self { values, rows, stride, columns }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.columns]
    }
}

/// A small matrix packed for products on the thread that packs it.
pub(crate) struct Panels {
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

impl Panels {
    /// Room for nothing yet.
    pub(crate) fn new(isa: Isa) -> Self {
        Self { isa, memory: Aligned::zeros(0), k: 0, n: 0 }
    }

    /// `scale * b`.
    pub(crate) fn pack(&mut self, b: Columns<'_>, scale: f32) -> &Self {
        let width = self.isa.panel_width();
        (self.k, self.n) = (b.rows, b.columns);
        self.memory.reserve(self.n.next_multiple_of(width) * self.k);
        let panels = self.memory.values_mut().chunks_exact_mut((self.k * width).max(1));
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

    /// `scale * bᵀ`.
    pub(crate) fn pack_transposed(&mut self, b: Columns<'_>, scale: f32) -> &Self {
        let width = self.isa.panel_width();
        (self.k, self.n) = (b.columns, b.rows);
        self.memory.reserve(self.n.next_multiple_of(width) * self.k);
        let panels = self.memory.values_mut().chunks_exact_mut((self.k * width).max(1));
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

/// `a b` for `a` `(rows, k)`, with `k` at most what `b` was packed with, to the first `columns` of rows of `to`.
pub(crate) fn to_rows(to: &mut [f32], to_stride: usize, columns: usize, a: Columns<'_>, b: &Panels) {
    assert!(
        columns <= to_stride && (a.rows == 0 || to.len() >= (a.rows - 1) * to_stride + columns),
        "place of a product of heads"
    );
    unsafe { run(to.as_mut_ptr(), to_stride, columns, (a, a.rows, a.columns, a.stride, 1), b) }
}

/// Columns of a result that other threads write other columns of.
pub(crate) struct Place {
    shared: Shared,
    stride: usize,
}

impl Place {
    /// The columns from value `first` of `to` on, of rows `stride` apart.
    pub(crate) fn all(to: &mut [f32], stride: usize) -> Self {
        Self { shared: Shared(to.as_mut_ptr()), stride }
    }

    /// `a b` from value `first` on.
    ///
    /// # Safety
    /// The place has as many rows from `first` on as `a`, no other thread touches these columns of them, and the slice it
    /// was made of is still borrowed.
    pub(crate) unsafe fn put(&self, first: usize, a: Columns<'_>, b: &Panels) {
        unsafe {
            let to = self.shared.pointer().add(first);
            run(to, self.stride, b.n, (a, a.rows, a.columns, a.stride, 1), b);
        }
    }

    /// `aᵀ b` from value `first` on.
    ///
    /// # Safety
    /// As for [`put`](Self::put), with as many rows as `a` has columns.
    pub(crate) unsafe fn put_transposed(&self, first: usize, a: Columns<'_>, b: &Panels) {
        unsafe {
            let to = self.shared.pointer().add(first);
            run(to, self.stride, b.n, (a, a.columns, a.rows, 1, a.stride), b);
        }
    }
}

/// # Safety
/// `to` is valid for writing `columns` values of `rows` rows, and nothing else touches them meanwhile. `a` has as many rows of
/// `units` values, `a_stride` apart and `a_step` from value to value.
unsafe fn run(
    to: *mut f32,
    to_stride: usize,
    columns: usize,
    (a, rows, units, a_stride, a_step): (Columns<'_>, usize, usize, usize, usize),
    b: &Panels,
) {
    assert!(units <= b.k && columns <= b.n, "shapes of a product of heads");
    let (width, panel_stride) = (b.isa.panel_width(), b.k * b.isa.panel_width());
    for first in (0..columns).step_by(ZEROS.len()) {
        let block = Block {
            rows,
            columns: ZEROS.len().min(columns - first),
            first: None,
            factors: Factors {
                units,
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

/// What the sums of as many columns begin with: whole panels of every width.
static ZEROS: [f32; 1 << 10] = [0.0; 1 << 10];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_heads_are_right_beyond_the_columns_that_are_worked_on_at_a_time() {
        let (rows, k, n) = (3, 2, (1 << 10) + 37);
        let a: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 1000) as f32).collect();
        for isa in Isa::supported() {
            let mut panels = Panels::new(isa);
            let mut got = vec![f32::NAN; rows * n];
            let packed = panels.pack(Columns::new(&b, k, n, n), 1.0);
            to_rows(&mut got, n, n, Columns::new(&a, rows, k, k), packed);
            for (index, got) in got.iter().enumerate() {
                let (row, column) = (index / n, index % n);
                let expected: f32 = (0..k).map(|k_| a[row * k + k_] * b[k_ * n + column]).sum();
                assert_eq!(*got, expected, "{isa:?} at ({row}, {column})");
            }
        }
    }
}
