//! A task of a product: a rectangle of its result, term by term.

// SAFETY (of every block in this file): the caller of `run` and `run_few` vouches for the rectangle; `Operand` and
// `PackedMatrix` know the extent of their data, and a matrix was packed for an instruction set that the processor has.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use super::aligned::Aligned;
use super::block::Block;
use super::few_rows::FewRows;
use super::kept::KeptRows;
use super::panels::{units, widen, widen_bytes};
use super::{Precision, Term};
use crate::dropout::Kept;

thread_local! {
    /// A panel widened to f32, rows with their mask applied, and sums that a mask is applied to.
    static SCRATCH: RefCell<[Aligned; 3]> = RefCell::new(std::array::from_fn(|_| Aligned::zeros(0)));
}

/// A rectangle of the result.
pub(super) struct Task<'a> {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Columns of the whole result.
    pub(super) n: usize,
    /// A row of the whole result that the sums begin with; none where they begin with what is there.
    pub(super) start: Option<&'a [f32]>,
    /// The whole result.
    pub(super) result: *mut f32,
}

impl Task<'_> {
    /// Computes the rectangle.
    ///
    /// # Safety
    /// The rectangle is valid for writing, without a `start` for reading too, and no other thread touches it.
    pub(super) unsafe fn run(&self, terms: &[Term<'_>]) {
        let to = unsafe { self.place() };
        SCRATCH.with_borrow_mut(|[wide, masked, sums]| {
            let mut start = self.start.map(|start| &start[self.columns.clone()]);
            for term in terms {
                let start = start.take();
                match term.kept {
                    None => unsafe { self.sum(term, self.columns.clone(), start, to, self.n, wide, masked) },
                    Some(kept) => unsafe { self.add_kept(term, kept, start, to, wide, masked, sums) },
                }
            }
        });
    }

    /// As [`run`](Self::run), for a few rows and terms without masks.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    pub(super) unsafe fn run_few(&self, terms: &[Term<'_>]) {
        let to = unsafe { self.place() };
        let mut start = self.start.map(|start| &start[self.columns.clone()]);
        for term in terms {
            let (b, isa) = (term.b, term.b.isa());
            let (from, from_stride) = start.take().map_or((to.cast_const(), self.n), |row| (row.as_ptr(), 0));
            let work = FewRows {
                rows: self.rows.len(),
                columns: self.columns.len(),
                units: units(b.precision(), b.k()),
                depth: isa.depth() / b.widening(),
                a: term.a.data().as_ptr().cast(),
                a_stride: term.a.stride(),
                b: b.panels_from(self.columns.start / isa.panel_width()).as_ptr(),
                from,
                from_stride,
                to,
                to_stride: self.n,
            };
            unsafe { work.run(isa, b.precision()) };
        }
    }

    /// # Safety
    /// The rectangle lies within the result.
    unsafe fn place(&self) -> *mut f32 {
        unsafe { self.result.add(self.rows.start * self.n + self.columns.start) }
    }

    /// `to = from + kept ∘ (a b)`, panel by panel, so that the sums are still near when those that count are picked.
    #[allow(clippy::too_many_arguments)]
    unsafe fn add_kept(
        &self,
        term: &Term<'_>,
        kept: &Kept,
        from: Option<&[f32]>,
        to: *mut f32,
        wide: &mut Aligned,
        masked: &mut Aligned,
        sums: &mut Aligned,
    ) {
        let (rows, width) = (self.rows.len(), term.b.isa().panel_width());
        sums.reserve((rows + 1) * width);
        for first in self.columns.clone().step_by(width) {
            let columns = first..self.columns.end.min(first + width);
            let (zeros, sums) = sums.values_mut().split_at_mut(width);
            zeros.fill(0.0);
            let count = columns.len();
            unsafe {
                let zeros = Some(&zeros[..count]);
                self.sum(term, columns.clone(), zeros, sums.as_mut_ptr(), count, wide, masked);
            }
            let at = first - self.columns.start;
            let from = from.map(|from| &from[at..at + count]);
            unsafe {
                if let Some(from) = from {
                    for row in 0..rows {
                        to.add(row * self.n + at).copy_from_nonoverlapping(from.as_ptr(), count);
                    }
                }
                let (bits, bits_stride) = kept.from(self.rows.start, first);
                KeptRows {
                    rows,
                    columns: count,
                    bits: bits.as_ptr(),
                    bits_stride,
                    from: sums.as_ptr(),
                    from_stride: count,
                    to: to.add(at),
                    to_stride: self.n,
                }
                .add(term.b.isa());
            }
        }
    }

    /// `to = from + a b` for some columns, or `to += a b` without a `from`.
    #[allow(clippy::too_many_arguments)]
    unsafe fn sum(
        &self,
        term: &Term<'_>,
        columns: Range<usize>,
        from: Option<&[f32]>,
        to: *mut f32,
        to_stride: usize,
        wide: &mut Aligned,
        masked: &mut Aligned,
    ) {
        let (b, isa) = (term.b, term.b.isa());
        let (width, stride) = (isa.panel_width(), term.a.stride());
        let (rows, first_panel) = (self.rows.len(), columns.start / width);
        let per_unit = b.widening();
        let all = units(b.precision(), b.k());
        let following = first_panel + columns.len().div_ceil(width);
        for begin in (0..all.max(1)).step_by(isa.depth() / per_unit) {
            let depth = all.min(begin + isa.depth() / per_unit) - begin;
            let mut a = &term.a.data()[self.rows.start * stride + begin * per_unit..];
            let mut a_stride = stride;
            if let Some(mask) = term.a_mask {
                a_stride = depth;
                masked.reserve(rows * depth);
                let copies = masked.values_mut().chunks_exact_mut(depth.max(1)).zip(a.chunks(stride));
                for (row, (copy, values)) in self.rows.clone().zip(copies) {
                    copy.copy_from_slice(&values[..depth]);
                    mask.apply_part(row, begin, copy);
                }
                a = masked.values();
            }
            let (from, from_stride) = match from {
                Some(row) if begin == 0 => (row.as_ptr(), 0),
                _ => (to.cast_const(), to_stride),
            };
            let block = Block {
                rows,
                columns: columns.len(),
                units: depth * per_unit,
                a: a.as_ptr().cast(),
                a_stride,
                a_step: 1,
                b: b.panels_from(first_panel)[begin * width..].as_ptr(),
                b_step: width,
                panel_stride: b.panel_stride(),
                // The next units of the first panel, or the first panel of the next task, more often than not.
                next: match begin + depth < all {
                    true => b.panels_from(first_panel)[(begin + depth) * width..].as_ptr(),
                    false => b.panels_from(0).as_ptr().wrapping_add(following * b.panel_stride()),
                },
                from,
                from_stride,
                to,
                to_stride,
            };
            if per_unit == 1 {
                unsafe { block.run(isa, b.precision()) };
                continue;
            }
            wide.reserve(per_unit * depth * width);
            for (index, column) in (0..columns.len()).step_by(width).enumerate() {
                let panel = &b.panels_from(first_panel + index)[begin * width..][..depth * width];
                match b.precision() {
                    Precision::Int8 => widen_bytes(panel, width, wide),
                    _ => widen(panel, width, wide),
                }
                let next = match column + width < columns.len() {
                    true => b.panels_from(first_panel + index + 1)[begin * width..].as_ptr(),
                    false => block.next,
                };
                unsafe {
                    Block {
                        columns: width.min(columns.len() - column),
                        b: wide.as_ptr(),
                        next,
                        from: block.from.add(column),
                        to: block.to.add(column),
                        ..block
                    }
                    .run(isa, Precision::F32);
                }
            }
        }
    }
}
