//! NEON, without and with the instructions of later versions for int8 (Armv8.2, Armv8.6) and bf16 (Armv8.6).
//!
//! A vector is two registers of four lanes, so that panels are as wide as for AVX2 and masks begin at whole bytes.

// SAFETY (of every block in this file): see the module `simd`: callers have checked that the processor has the instruction
// set, and vouch for the pointers.
#![allow(unsafe_code)]

mod registers;

use std::arch::aarch64::*;

use super::Simd;
use registers::{
    add_bytes_lane, add_square, add_words, and, exchange_halves, in_order, low_half, widen_register,
};

/// Words are f32.
pub(crate) type Neon = NeonWords<F32>;

/// Words are pairs of bf16, summed in f32. [`add_group`](Simd::add_group) reads `b` as `words::interleave` leaves it.
pub(crate) type NeonBf16 = NeonWords<BF16>;

/// Words are four bytes with sign, summed in i32.
pub(crate) type NeonDot = NeonWords<BYTES>;

/// The same with the matrix instruction of Armv8.6. [`add_group`](Simd::add_group) reads `b` as `words::interleave` leaves it.
pub(crate) type NeonMatrix = NeonWords<SQUARES>;

const F32: u8 = 0;
const BF16: u8 = 1;
const BYTES: u8 = 2;
const SQUARES: u8 = 3;

/// All of them differ only in how words are multiplied. [`add`](Simd::add) and [`mask`](Simd::mask) are for sums in f32.
pub(crate) struct NeonWords<const WORD: u8>;

/// Whether an instruction multiplies two words of two rows by two words of two columns.
const fn has_squares(word: u8) -> bool {
    matches!(word, BF16 | SQUARES)
}

/// Two registers.
type Vector = [float32x4_t; 2];

impl<const WORD: u8> Simd for NeonWords<WORD> {
    const LANES: usize = 8;
    type Vector = Vector;

    #[inline(always)]
    unsafe fn zero() -> Vector {
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn add(a: Vector, b: Vector) -> Vector {
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Vector {
        unsafe { [vld1q_f32(from.cast()), vld1q_f32(from.add(4).cast())] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, vector: Vector) {
        unsafe {
            vst1q_f32(to.cast(), vector[0]);
            vst1q_f32(to.add(4).cast(), vector[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> Vector {
        unsafe { [vld1q_dup_f32(from.cast()); 2] }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Vector, b: Vector, sum: Vector) -> Vector {
        unsafe { [add_words::<WORD>(a[0], b[0], sum[0]), add_words::<WORD>(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    unsafe fn most_multiply_adds(a: Vector, b: Vector, sum: Vector) -> Vector {
        if !has_squares(WORD) {
            return unsafe { Self::multiply_add(a, b, sum) };
        }
        unsafe { [add_square::<WORD>(a[0], b[0], sum[0]), add_square::<WORD>(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    unsafe fn mask(bits: *const u8, vector: Vector) -> Vector {
        unsafe {
            let bits = vdupq_n_u32(u32::from(*bits));
            let low = vtstq_u32(bits, vld1q_u32([1, 2, 4, 8].as_ptr()));
            let high = vtstq_u32(bits, vld1q_u32([16, 32, 64, 128].as_ptr()));
            [and(vector[0], low), and(vector[1], high)]
        }
    }

    #[inline(always)]
    unsafe fn widen(pairs: Vector) -> (Vector, Vector) {
        unsafe {
            let high = vdupq_n_u32(0xffff_0000);
            ([low_half(pairs[0]), low_half(pairs[1])], [and(pairs[0], high), and(pairs[1], high)])
        }
    }

    #[inline(always)]
    unsafe fn widen_bytes(bytes: Vector) -> [Vector; 4] {
        unsafe {
            let [a, b] = [widen_register(bytes[0]), widen_register(bytes[1])];
            [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
        }
    }

    /// Two words for squares. Else an instruction multiplies by one lane of a register, so that four words of a row take one load.
    const GROUP: usize = if has_squares(WORD) { 2 } else { 4 };

    #[inline(always)]
    unsafe fn add_group<const ROWS: usize, const VECTORS: usize>(
        rows: [*const u32; ROWS],
        b: *const u32,
        b_step: usize,
        sums: &mut [[Vector; VECTORS]; ROWS],
    ) {
        unsafe {
            if has_squares(WORD) {
                return add_two_words::<WORD, ROWS, VECTORS>(rows, b, sums);
            }
            let mut words = [vdupq_n_f32(0.0); ROWS];
            for (words, row) in words.iter_mut().zip(rows) {
                *words = vld1q_f32(row.cast());
            }
            add_word::<WORD, 0, ROWS, VECTORS>(&words, b, sums);
            add_word::<WORD, 1, ROWS, VECTORS>(&words, b.add(b_step), sums);
            add_word::<WORD, 2, ROWS, VECTORS>(&words, b.add(2 * b_step), sums);
            add_word::<WORD, 3, ROWS, VECTORS>(&words, b.add(3 * b_step), sums);
        }
    }

    /// From two rows to two squares of two rows and two columns, and back.
    #[inline(always)]
    unsafe fn exchange_sums<const ROWS: usize, const VECTORS: usize>(sums: &mut [[Vector; VECTORS]; ROWS]) {
        if !has_squares(WORD) {
            return;
        }
        for [first, second] in sums.as_chunks_mut::<2>().0 {
            for (first, second) in first.iter_mut().zip(second) {
                for (first, second) in first.iter_mut().zip(second) {
                    unsafe { (*first, *second) = exchange_halves(*first, *second) }
                }
            }
        }
    }
}

/// `sums += a b` for word `LANE` of every row, an f32 or four bytes. A register of `b` is used by all rows before the next one is needed: beside
/// 24 sums and the words of six rows there are two registers left.
#[inline(always)]
unsafe fn add_word<const WORD: u8, const LANE: i32, const ROWS: usize, const VECTORS: usize>(
    words: &[float32x4_t; ROWS],
    b: *const u32,
    sums: &mut [[Vector; VECTORS]; ROWS],
) {
    for vector in 0..VECTORS {
        for register in 0..2 {
            unsafe {
                let b = vld1q_f32(b.add(8 * vector + 4 * register).cast());
                for (sums, words) in sums.iter_mut().zip(words) {
                    let sum = &mut sums[vector][register];
                    *sum = match WORD {
                        BYTES => add_bytes_lane::<LANE>(*words, b, *sum),
                        _ => vfmaq_laneq_f32::<LANE>(*sum, b, *words),
                    };
                }
            }
        }
    }
}

/// `sums += a b` for two words of every row and two interleaved rows of `b`. The sums are in the order of
/// `exchange_sums`; the last of an odd number of rows is summed by itself.
#[inline(always)]
unsafe fn add_two_words<const WORD: u8, const ROWS: usize, const VECTORS: usize>(
    rows: [*const u32; ROWS],
    b: *const u32,
    sums: &mut [[Vector; VECTORS]; ROWS],
) {
    unsafe {
        // Those of rows 0 and 1, of rows 2 and 3, and so on.
        let mut words = [vdupq_n_f32(0.0); ROWS];
        for (words, rows) in words.iter_mut().zip(rows.chunks(2)) {
            let first = rows[0].cast::<f64>().read_unaligned();
            let second = rows.last().map_or(first, |row| row.cast::<f64>().read_unaligned());
            *words = vreinterpretq_f32_f64(vsetq_lane_f64::<1>(second, vdupq_n_f64(first)));
        }
        for vector in 0..VECTORS {
            for register in 0..2 {
                // Both words of two columns, and of the next two.
                let b = b.add(16 * vector + 8 * register);
                let (left, right) = (vld1q_f32(b.cast()), vld1q_f32(b.add(4).cast()));
                for (sums, words) in sums.chunks_mut(2).zip(words) {
                    if let [above, below] = sums {
                        let (above, below) = (&mut above[vector][register], &mut below[vector][register]);
                        *above = add_square::<WORD>(words, left, *above);
                        *below = add_square::<WORD>(words, right, *below);
                    } else if let [last] = sums {
                        let last = &mut last[vector][register];
                        *last =
                            add_words::<WORD>(vdupq_laneq_f32::<0>(words), vuzp1q_f32(left, right), *last);
                        *last =
                            add_words::<WORD>(vdupq_laneq_f32::<1>(words), vuzp2q_f32(left, right), *last);
                    }
                }
                in_order();
            }
        }
    }
}
