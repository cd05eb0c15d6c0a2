//! AVX-512, without and with its instructions for bf16 and int8.

// SAFETY (of every block in this file): see the module `simd`: callers have checked that the processor has the instruction
// set, and vouch for the pointers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{HIGH_HALF, Simd};

/// Words are f32.
pub(crate) type Avx512 = Avx512Words<F32>;

/// Words are pairs of bf16, summed in f32.
pub(crate) type Avx512Bf16 = Avx512Words<BF16>;

/// Words are four bytes, those of `a` without sign and those of `b` with it, summed in i32 by AVX512-VNNI.
pub(crate) type Avx512Vnni = Avx512Words<BYTES>;

/// Words are four bytes, those of `a` with sign and those of `b` without it, summed in i32. The magnitudes of the first two and of
/// the last two bytes of `a` add up to at most 128, so that the sums of `vpmaddubsw` do not saturate.
pub(crate) type Avx512Bounded = Avx512Words<BOUNDED>;

const F32: u8 = 0;
const BF16: u8 = 1;
const BYTES: u8 = 2;
const BOUNDED: u8 = 3;

/// All of them differ only in how words are multiplied. [`add`](Simd::add) and [`mask`](Simd::mask) are for sums in f32.
pub(crate) struct Avx512Words<const WORD: u8>;

impl<const WORD: u8> Simd for Avx512Words<WORD> {
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
            match WORD {
                F32 => _mm512_set1_ps(from.cast::<f32>().read()),
                _ => _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read())),
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        unsafe {
            // No closure: it would not be compiled for AVX-512.
            let (a_bits, b_bits) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let sum_bits = _mm512_castps_si512(sum);
            match WORD {
                F32 => _mm512_fmadd_ps(a, b, sum),
                BF16 => {
                    // SAFETY: both types are 64 bytes of plain data.
                    let a = std::mem::transmute::<__m512, __m512bh>(a);
                    let b = std::mem::transmute::<__m512, __m512bh>(b);
                    _mm512_dpbf16_ps(sum, a, b)
                }
                BYTES => _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum_bits, a_bits, b_bits)),
                _ => {
                    let pairs = _mm512_maddubs_epi16(b_bits, a_bits);
                    let products = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
                    _mm512_castsi512_ps(_mm512_add_epi32(sum_bits, products))
                }
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
