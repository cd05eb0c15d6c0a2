//! Products of a few rows, as in decoding: each weight is used a few times only, so they are as fast as weights come from
//! memory.
//!
//! A task reads the panels of its columns from the first byte to the last, once, in the order they lie in memory. The sums
//! are those of the blocks of [`product`](super::product()), in the same order: the same bits.

// SAFETY (of every block in this file): the caller of `few_rows` vouches for the instruction set and for the pointers in
// `FewRows` and their extents.
#![allow(unsafe_code)]

use super::simd::{Portable, Simd};
use super::{Isa, Precision};

/// The most rows that are worked on this way: their sums stay in registers.
pub(super) const FEW: usize = 4;

/// `to = from + a b` for at most [`FEW`] rows of `a` and some panels of `b`.
#[derive(Clone, Copy)]
pub(super) struct FewRows {
    pub(super) rows: usize,
    /// Columns of the result; the last panel may have more.
    pub(super) columns: usize,
    /// Units of a panel, and how many of them have a sum of their own before they are added up.
    pub(super) units: usize,
    pub(super) depth: usize,
    /// `rows` rows: of `units`, or of two or four times as many where pairs or bytes are widened.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    /// Panels of `units` rows of the panel width.
    pub(super) b: *const u32,
    /// `rows` rows of `columns`; a stride of 0 repeats one row.
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

impl FewRows {
    /// Computes it.
    ///
    /// # Safety
    /// As for [`Block::run`](super::block::Block::run).
    pub(super) unsafe fn run(&self, isa: Isa, precision: Precision) {
        unsafe {
            match (isa, precision) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { bf16: true }, Precision::Bf16) => avx512_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { .. }, precision) => avx512(self, precision),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, precision) => avx2(self, precision),
                (_, precision) => portable(self, precision),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(work: &FewRows) {
    // The instruction multiplies pairs as they are.
    unsafe { panels::<super::simd::Avx512Bf16>(work, Precision::F32) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(work: &FewRows, precision: Precision) {
    unsafe { panels::<super::simd::Avx512>(work, precision) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(work: &FewRows, precision: Precision) {
    unsafe { panels::<super::simd::Avx2>(work, precision) }
}

unsafe fn portable(work: &FewRows, precision: Precision) {
    unsafe { panels::<Portable>(work, precision) }
}

#[inline(always)]
unsafe fn panels<S: Simd>(work: &FewRows, precision: Precision) {
    macro_rules! rows_of {
        ($($n:literal)*) => {
            match (work.rows, precision) {
                $(($n, Precision::F32) => unsafe { some_rows::<S, $n, 1>(work) },
                ($n, Precision::Bf16) => unsafe { some_rows::<S, $n, 2>(work) },
                ($n, Precision::Int8) => unsafe { some_rows::<S, $n, 4>(work) },)*
                _ => debug_assert!(false, "more than a few rows"),
            }
        };
    }
    rows_of!(1 2 3 4)
}

#[inline(always)]
unsafe fn some_rows<S: Simd, const ROWS: usize, const WIDEN: usize>(work: &FewRows) {
    let width = 2 * S::LANES;
    let mut b = work.b;
    // What is left of a panel when the result has no columns for all of it.
    let mut edge = [0.0f32; FEW * 32];
    let mut first = 0;
    while first < work.columns {
        let columns = width.min(work.columns - first);
        unsafe {
            let (from, to) = (work.from.add(first), work.to.add(first));
            if columns == width {
                panel::<S, ROWS, WIDEN>(work, b, from, work.from_stride, to, work.to_stride);
            } else {
                let sums = edge.as_mut_ptr();
                for row in 0..ROWS {
                    from.add(row * work.from_stride).copy_to(sums.add(row * width), columns);
                }
                panel::<S, ROWS, WIDEN>(work, b, sums, width, sums, width);
                for row in 0..ROWS {
                    sums.add(row * width).copy_to(to.add(row * work.to_stride), columns);
                }
            }
            b = b.add(work.units * width);
        }
        first += columns;
    }
}

/// One panel, all of `k`.
#[inline(always)]
unsafe fn panel<S: Simd, const ROWS: usize, const WIDEN: usize>(
    work: &FewRows,
    mut b: *const u32,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    unsafe {
        let mut totals = [[S::zero(); 2]; ROWS];
        for (row, totals) in totals.iter_mut().enumerate() {
            let from = from.add(row * from_stride).cast::<u32>();
            *totals = [S::load(from), S::load(from.add(S::LANES))];
        }
        let mut a = work.a;
        let mut left = work.units;
        while left > 0 {
            let depth = left.min(work.depth);
            let mut sums = [[S::zero(); 2]; ROWS];
            for _ in 0..depth {
                S::prefetch(b.wrapping_add(AHEAD));
                let vectors = [S::load(b), S::load(b.add(S::LANES))];
                if WIDEN == 4 {
                    let quarters = [S::widen_bytes(vectors[0]), S::widen_bytes(vectors[1])];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for k in 0..4 {
                            let a = S::splat(a.add(row * work.a_stride + k));
                            for (sum, quarters) in sums.iter_mut().zip(quarters) {
                                *sum = S::multiply_add(a, quarters[k], *sum);
                            }
                        }
                    }
                    a = a.add(4);
                } else if WIDEN == 2 {
                    let halves = [S::widen(vectors[0]), S::widen(vectors[1])];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = a.add(row * work.a_stride);
                        let (first, second) = (S::splat(a), S::splat(a.add(1)));
                        for (sum, (low, high)) in sums.iter_mut().zip(halves) {
                            *sum = S::multiply_add(second, high, S::multiply_add(first, low, *sum));
                        }
                    }
                    a = a.add(2);
                } else {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = S::splat(a.add(row * work.a_stride));
                        for (sum, vector) in sums.iter_mut().zip(vectors) {
                            *sum = S::multiply_add(a, vector, *sum);
                        }
                    }
                    a = a.add(1);
                }
                b = b.add(2 * S::LANES);
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = S::add(*total, sum);
                }
            }
            left -= depth;
        }
        for (row, totals) in totals.into_iter().enumerate() {
            let to = to.add(row * to_stride).cast::<u32>();
            S::store(to, totals[0]);
            S::store(to.add(S::LANES), totals[1]);
        }
    }
}

/// Units ahead that are asked for, 2 KiB: what the processor's own prefetching leaves open at the ends of pages.
const AHEAD: usize = 512;
