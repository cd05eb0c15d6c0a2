//! Operations on one register: multiply-adds of words, of which some have no stable intrinsic, and conversions.

// SAFETY (of every block in this file): see the module `simd`.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{BF16, F32};

/// Prevents the compiler from loading an operand of the next columns before this point, because there is no
/// register for it.
#[inline(always)]
pub(super) unsafe fn in_order() {
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

/// An instruction that adds to `sum` a product of `a` and `b`, or of lane `lane` of `a`.
macro_rules! add {
    ($instruction:literal, $a:ident, $b:ident, $sum:ident $(, $lane:ident)?) => {
        asm!(
            $instruction,
            sum = inout(vreg) $sum,
            a = in(vreg) $a,
            b = in(vreg) $b,
            $(lane = const $lane,)?
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// `sum` plus the product of the words in each lane.
#[inline(always)]
pub(super) unsafe fn add_words<const WORD: u8>(
    a: float32x4_t,
    b: float32x4_t,
    sum: float32x4_t,
) -> float32x4_t {
    unsafe {
        match WORD {
            F32 => vfmaq_f32(sum, a, b),
            BF16 => add_pairs(a, b, sum),
            _ => add_bytes(a, b, sum),
        }
    }
}

/// `sum` plus both products of the pairs of bf16 in each lane. `vbfdotq_f32` is not stable in Rust.
#[inline(always)]
pub(super) unsafe fn add_pairs(a: float32x4_t, b: float32x4_t, mut sum: float32x4_t) -> float32x4_t {
    unsafe {
        add!("bfdot {sum:v}.4s, {b:v}.8h, {a:v}.8h", a, b, sum);
    }
    sum
}

/// `sum`, a square of two rows and two columns, plus two words of the rows times those of the columns, in the order of
/// [`add_words`] and so with the same bits. `vbfmmlaq_f32` and `vmmlaq_s32` are not stable in Rust.
#[inline(always)]
pub(super) unsafe fn add_square<const WORD: u8>(
    rows: float32x4_t,
    columns: float32x4_t,
    mut sum: float32x4_t,
) -> float32x4_t {
    unsafe {
        match WORD {
            BF16 => add!("bfmmla {sum:v}.4s, {a:v}.8h, {b:v}.8h", rows, columns, sum),
            _ => add!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", rows, columns, sum),
        }
    }
    sum
}

/// `sum`, in i32, plus the products of the four bytes in each lane. `vdotq_s32` is not stable in Rust.
#[inline(always)]
pub(super) unsafe fn add_bytes(a: float32x4_t, b: float32x4_t, mut sum: float32x4_t) -> float32x4_t {
    unsafe {
        add!("sdot {sum:v}.4s, {b:v}.16b, {a:v}.16b", a, b, sum);
    }
    sum
}

/// The same with the bytes in lane `LANE` of `a` for all lanes.
#[inline(always)]
pub(super) unsafe fn add_bytes_lane<const LANE: i32>(
    a: float32x4_t,
    b: float32x4_t,
    mut sum: float32x4_t,
) -> float32x4_t {
    unsafe {
        add!("sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]", a, b, sum, LANE);
    }
    sum
}

/// The first halves of two registers, and their second halves.
#[inline(always)]
pub(super) unsafe fn exchange_halves(a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
    unsafe {
        (vcombine_f32(vget_low_f32(a), vget_low_f32(b)), vcombine_f32(vget_high_f32(a), vget_high_f32(b)))
    }
}

#[inline(always)]
pub(super) unsafe fn and(register: float32x4_t, mask: uint32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(register), mask)) }
}

/// The first bf16 of each pair as f32.
#[inline(always)]
pub(super) unsafe fn low_half(pairs: float32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_f32(pairs))) }
}

/// The four bytes of each word as f32: to the top of the lane, and down again with the sign.
#[inline(always)]
pub(super) unsafe fn widen_register(bytes: float32x4_t) -> [float32x4_t; 4] {
    unsafe {
        let bytes = vreinterpretq_s32_f32(bytes);
        let first = vshrq_n_s32::<24>(vshlq_n_s32::<24>(bytes));
        let second = vshrq_n_s32::<24>(vshlq_n_s32::<16>(bytes));
        let third = vshrq_n_s32::<24>(vshlq_n_s32::<8>(bytes));
        let fourth = vshrq_n_s32::<24>(bytes);
        [vcvtq_f32_s32(first), vcvtq_f32_s32(second), vcvtq_f32_s32(third), vcvtq_f32_s32(fourth)]
    }
}
