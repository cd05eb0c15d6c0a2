//! AVX-512, without and with its BF16 instructions.

// SAFETY (of every block in this file): see the module `simd`: callers have checked that the processor has the instruction
// set, and vouch for the pointers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{HIGH_HALF, Simd};

/// Words are f32.
pub(crate) type Avx512 = Avx512Words<false>;

/// Words are pairs of bf16, summed in f32.
pub(crate) type Avx512Bf16 = Avx512Words<true>;

/// Both differ only in how words are multiplied.
pub(crate) struct Avx512Words<const BF16: bool>;

impl<const BF16: bool> Simd for Avx512Words<BF16> {
    const LANES: usize = 16;
    type Vector = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512 {
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, vector: __m512) {
        unsafe { _mm512_storeu_ps(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m512 {
        unsafe {
            if BF16 {
                _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read()))
            } else {
                _mm512_set1_ps(from.cast::<f32>().read())
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        unsafe {
            if BF16 {
                // SAFETY: both types are 64 bytes of plain data.
                let a = std::mem::transmute::<__m512, __m512bh>(a);
                let b = std::mem::transmute::<__m512, __m512bh>(b);
                _mm512_dpbf16_ps(sum, a, b)
            } else {
                _mm512_fmadd_ps(a, b, sum)
            }
        }
    }

    #[inline(always)]
    unsafe fn mask(bits: *const u8, vector: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(bits.cast::<u16>().read_unaligned(), vector) }
    }

    #[inline(always)]
    unsafe fn widen(pairs: __m512) -> (__m512, __m512) {
        unsafe {
            let pairs = _mm512_castps_si512(pairs);
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(HIGH_HALF));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn widen_bytes(bytes: __m512) -> [__m512; 4] {
        unsafe {
            let bytes = _mm512_castps_si512(bytes);
            let first = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(bytes));
            let second = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(bytes));
            let third = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(bytes));
            let fourth = _mm512_srai_epi32::<24>(bytes);
            [
                _mm512_cvtepi32_ps(first),
                _mm512_cvtepi32_ps(second),
                _mm512_cvtepi32_ps(third),
                _mm512_cvtepi32_ps(fourth),
            ]
        }
    }
}
