//! A panel of `b` for the rows of a tile.

// SAFETY (of every block in this file): as in the parent module.
#![allow(unsafe_code)]

use super::{Skinny, Sums};
use crate::simd::{Simd, prefetch, prefetch_far};
use crate::tile::{LINE, PREFETCH_INTERVAL};

/// Prefetch distance in words, 2 KiB: the hardware prefetcher stops at the ends of pages.
const AHEAD: usize = 512;

/// A panel for `rows` rows, at most `ROWS`.
#[inline(always)]
pub(super) unsafe fn tile_of_rows<S: Simd, const ROWS: usize, const WIDEN: usize>(
    rows: usize,
    work: &Skinny,
    a: *const u32,
    b: *const u32,
    sums: Sums,
    ahead: (*const u32, usize),
) {
    macro_rules! rows_of {
        ($($n:literal)*) => {
            match rows {
                // A comparison of constants: no code is generated for more rows than fit the registers.
                $($n if $n <= ROWS => unsafe {
                    panel::<S, $n, WIDEN>(work, a, b, sums, ahead)
                },)*
                _ => debug_assert!(false, "more rows than a tile has"),
            }
        };
    }
    rows_of!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// One panel, all of `k`.
#[inline(always)]
unsafe fn panel<S: Simd, const ROWS: usize, const WIDEN: usize>(
    work: &Skinny,
    mut a: *const u32,
    mut b: *const u32,
    Sums { begin, begin_stride, mut from, mut from_stride, to, to_stride }: Sums,
    (mut ahead, ahead_lines): (*const u32, usize),
) {
    unsafe {
        let mut sums = [[S::zero(); 2]; ROWS];
        if !begin.is_null() {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(begin.add(row * begin_stride + at * S::LANES).cast());
                }
            }
        }
        let mut left = work.words;
        loop {
            let depth = left.min(work.depth);
            for word in 0..depth {
                if word.is_multiple_of(PREFETCH_INTERVAL) {
                    for _ in 0..ahead_lines {
                        prefetch_far(ahead);
                        ahead = ahead.wrapping_add(LINE);
                    }
                }
                prefetch(b.wrapping_add(AHEAD));
                let vectors = [S::load(b), S::load(b.add(S::LANES))];
                // A widened vector is used by all rows before the next one is needed, which saves registers.
                if WIDEN == 4 {
                    let [first, second] = [S::widen_bytes(vectors[0]), S::widen_bytes(vectors[1])];
                    for k in 0..4 {
                        add_products::<S, ROWS>(a.add(k), work.a_stride, [first[k], second[k]], &mut sums);
                    }
                } else if WIDEN == 2 {
                    let [first, second] = [S::widen(vectors[0]), S::widen(vectors[1])];
                    add_products::<S, ROWS>(a, work.a_stride, [first.0, second.0], &mut sums);
                    add_products::<S, ROWS>(a.add(1), work.a_stride, [first.1, second.1], &mut sums);
                } else {
                    add_products::<S, ROWS>(a, work.a_stride, vectors, &mut sums);
                }
                a = a.add(WIDEN);
                b = b.add(2 * S::LANES);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let (from, to) = (from.add(row * from_stride), to.add(row * to_stride).cast::<u32>());
                for (at, sum) in sums.into_iter().enumerate() {
                    let from = S::load(from.cast::<u32>().add(at * S::LANES));
                    S::store(to.add(at * S::LANES), S::add(from, sum));
                }
            }
            left -= depth;
            if left == 0 {
                break;
            }
            // The sums of the next words are added to the result so far.
            (from, from_stride) = (to.cast_const(), to_stride);
            sums = [[S::zero(); 2]; ROWS];
        }
    }
}

/// `sums += a b` for one `k` of each row.
#[inline(always)]
unsafe fn add_products<S: Simd, const ROWS: usize>(
    a: *const u32,
    a_stride: usize,
    b: [S::Vector; 2],
    sums: &mut [[S::Vector; 2]; ROWS],
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        unsafe {
            let a = S::splat(a.add(row * a_stride));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = S::multiply_add(a, b, *sum);
            }
        }
    }
}
