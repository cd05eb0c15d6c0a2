//! One task of a product: a rectangle of its result, term by term.

// SAFETY (of every block in this file): the caller of `run` and `run_skinny` vouches for the rectangle; `Operand` and
// `PackedMatrix` know the extent of their data, and a matrix was packed for an instruction set that the processor has.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::aligned::Aligned;
use crate::block::Block;
use crate::skinny::{Skinny, Sums};
use crate::tile::{Factors, First};
use crate::words::{interleave, widen, widen_bytes, words};
use crate::{PackedMatrix, Precision, Term};

thread_local! {
    /// A panel widened to f32, and rows with their mask applied.
    static SCRATCH: RefCell<[Aligned; 2]> = RefCell::new(std::array::from_fn(|_| Aligned::zeros(0)));
}

/// A rectangle of the result.
pub(crate) struct Task<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
    /// Columns of the whole result.
    pub(crate) n: usize,
    /// The row that all sums are initialised with, of the whole result's width; none to accumulate.
    pub(crate) init: Option<&'a [f32]>,
    /// The whole result.
    pub(crate) result: *mut f32,
}

impl Task<'_> {
    /// Computes the rectangle.
    ///
    /// # Safety
    /// The rectangle is valid for writing, without `init` for reading too, and no other thread accesses it.
    pub(crate) unsafe fn run(&self, terms: &[Term<'_>]) {
        let to = unsafe { self.place() };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut init = self.init.map(|init| &init[self.columns.clone()]);
            for (first, term) in in_order(terms) {
                unsafe { self.sum(first, term, init.take(), to, scratch) }
            }
        });
    }

    /// As [`run`](Self::run), for a skinny product without masks; the result has the same bits.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    pub(crate) unsafe fn run_skinny(&self, terms: &[Term<'_>]) {
        let to = unsafe { self.place() };
        SCRATCH.with_borrow_mut(|[begin, _]| {
            let mut init = self.init.map(|init| &init[self.columns.clone()]);
            for (first, term) in in_order(terms) {
                let (from, from_stride) =
                    init.take().map_or((to.cast_const(), self.n), |row| (row.as_ptr(), 0));
                let none = std::ptr::null();
                let mut sums =
                    Sums { begin: none, begin_stride: 0, from, from_stride, to, to_stride: self.n };
                if let Some(first) = first {
                    // Whole panels, because they are loaded whole.
                    let stride = self.columns.len().next_multiple_of(first.b.isa().panel_width());
                    begin.reserve(self.rows.len() * stride);
                    let begin = &mut begin.values_mut()[..self.rows.len() * stride];
                    begin.fill(0.0);
                    let begin = begin.as_mut_ptr();
                    let aside =
                        Sums { from: begin, from_stride: stride, to: begin, to_stride: stride, ..sums };
                    unsafe { self.skinny(first, aside) }
                    (sums.begin, sums.begin_stride) = (begin, stride);
                }
                if let Some(term) = term {
                    unsafe { self.skinny(term, sums) }
                }
            }
        });
    }

    /// One term of a skinny product.
    unsafe fn skinny(&self, term: &Term<'_>, sums: Sums) {
        let (b, isa) = (term.b, term.b.isa());
        let work = Skinny {
            rows: self.rows.len(),
            columns: self.columns.len(),
            words: words(b.precision(), b.k()),
            depth: isa.depth() / b.widening(),
            a: term.a.data().as_ptr().cast(),
            a_stride: term.a.stride(),
            b: b.panels_from(self.columns.start / isa.panel_width()).as_ptr(),
            sums,
        };
        unsafe { work.run(isa, b.precision()) };
    }

    /// # Safety
    /// The rectangle lies within the result.
    unsafe fn place(&self) -> *mut f32 {
        unsafe { self.result.add(self.rows.start * self.n + self.columns.start) }
    }

    /// `to = from + first + term`, or `to += first + term` without a `from`, for one or both of these terms.
    unsafe fn sum(
        &self,
        first: Option<&Term<'_>>,
        term: Option<&Term<'_>>,
        from: Option<&[f32]>,
        to: *mut f32,
        [wide, masked]: &mut [Aligned; 2],
    ) {
        let (from_row, from_stride) = from.map_or((to.cast_const(), self.n), |row| (row.as_ptr(), 0));
        let mut block = Block {
            rows: self.rows.len(),
            columns: self.columns.len(),
            first: first.map(|first| {
                let factors = self.factors(first, 0..first.b.k(), masked);
                let mask = first.product_mask.map(|mask| mask.from(self.rows.start, self.columns.start));
                let (mask, mask_stride) =
                    mask.map_or((std::ptr::null(), 0), |(bits, stride)| (bits.as_ptr(), stride));
                First { factors, mask, mask_stride }
            }),
            factors: Factors::NONE,
            next: std::ptr::null(),
            from: from_row,
            from_stride,
            to,
            to_stride: self.n,
        };
        let Some(term) = term else {
            if let Some(first) = first {
                unsafe { block.run(first.b.isa(), Precision::F32) }
            }
            return;
        };
        let (b, isa) = (term.b, term.b.isa());
        let (width, per_word, all) = (isa.panel_width(), b.widening(), words(b.precision(), b.k()));
        let panels = self.columns.start / width;
        let following = panels + self.columns.len().div_ceil(width);
        for begin in (0..all.max(1)).step_by(isa.depth() / per_word) {
            let end = all.min(begin + isa.depth() / per_word);
            block.factors = self.factors(term, begin..end, masked);
            // Prefetched, because it is used next: the following words of the first panel or, in most cases,
            // the first panel of the next task.
            block.next = match end < all {
                true => b.panels_from(panels)[end * width..].as_ptr(),
                false => b.panels_from(0).as_ptr().wrapping_add(following * b.panel_stride()),
            };
            match b.is_widened_to_scratch() {
                false => unsafe { block.run(isa, b.precision()) },
                true => unsafe { self.run_widened(block, b, begin..end, wide) },
            }
            (block.first, block.from, block.from_stride) = (None, to, self.n);
        }
    }

    /// Some words of a term: its rows, with their mask applied, and its panels.
    fn factors(&self, term: &Term<'_>, words: Range<usize>, masked: &mut Aligned) -> Factors {
        let (b, stride, width) = (term.b, term.a.stride(), term.b.isa().panel_width());
        let mut a = &term.a.data()[self.rows.start * stride + words.start * b.widening()..];
        let mut a_stride = stride;
        if let Some(mask) = term.a_mask {
            a_stride = words.len();
            masked.reserve(self.rows.len() * words.len());
            let copies = masked.values_mut().chunks_exact_mut(words.len().max(1)).zip(a.chunks(stride));
            for (row, (copy, values)) in self.rows.clone().zip(copies) {
                copy.copy_from_slice(&values[..words.len()]);
                mask.apply_part(row, words.start, copy);
            }
            a = masked.values();
        }
        Factors {
            words: if b.is_widened_to_scratch() { words.len() * b.widening() } else { words.len() },
            a: a.as_ptr().cast(),
            a_stride,
            a_step: 1,
            b: b.panels_from(self.columns.start / width)[words.start * width..].as_ptr(),
            b_step: width,
            panel_stride: b.panel_stride(),
        }
    }

    /// `block` for some words of `b`, panel by panel, each widened to f32 or interleaved once for all rows.
    unsafe fn run_widened(&self, block: Block, b: &PackedMatrix, words: Range<usize>, wide: &mut Aligned) {
        let (isa, width) = (b.isa(), b.isa().panel_width());
        wide.reserve(b.widening() * words.len() * width);
        let mut first = block.first;
        for column in (0..block.columns).step_by(width) {
            let panel = (self.columns.start + column) / width;
            let packed = &b.panels_from(panel)[words.start * width..][..words.len() * width];
            match b.precision() {
                Precision::Int8 => widen_bytes(isa, packed, width, wide),
                _ if isa.has_bf16() => interleave(isa, packed, width, wide),
                _ => widen(isa, packed, width, wide),
            }
            let next = match column + width < block.columns {
                true => b.panels_from(panel + 1)[words.start * width..].as_ptr(),
                false => block.next,
            };
            unsafe {
                Block {
                    columns: width.min(block.columns - column),
                    first,
                    factors: Factors { b: wide.as_ptr(), ..block.factors },
                    next,
                    from: block.from.add(column),
                    to: block.to.add(column),
                    ..block
                }
                .run(isa, if b.widening() == 1 { b.precision() } else { Precision::F32 });
            }
            first = first.map(|first| first.next_panel(width));
        }
    }
}

/// The terms in the order in which they are summed, each with the one whose sums it continues in registers. A term with a mask
/// of its product is always the first of such a pair.
fn in_order<'a, 'b>(
    terms: &'a [Term<'b>],
) -> impl Iterator<Item = (Option<&'a Term<'b>>, Option<&'a Term<'b>>)> {
    let mut terms = terms.iter().peekable();
    std::iter::from_fn(move || {
        let term = terms.next()?;
        Some(match term.product_mask {
            Some(_) => (Some(term), None),
            None => (terms.next_if(|next| continues(next, term)), Some(term)),
        })
    })
}

/// Whether the sums of `first` can be continued by `term`: both are computed in f32, and `first` is so short that its panels
/// stay in cache.
fn continues(first: &Term<'_>, term: &Term<'_>) -> bool {
    let in_f32 = |b: &PackedMatrix| b.precision() == Precision::F32 || b.widening() > 1;
    first.a_mask.is_none()
        && first.b.precision() == Precision::F32
        && in_f32(term.b)
        && first.b.k() <= first.b.isa().depth() / 4
}
