//! AVX2 with FMA, and AVX-VNNI.

// SAFETY (of every block in this file): see the module `simd`: callers have checked that the processor has the instruction
// set, and vouch for the pointers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{HIGH_HALF, Simd};

/// Words are f32.
pub(crate) type Avx2 = Avx2Words<F32>;

/// Words are four bytes, those of `a` without sign and those of `b` with it, summed in i32 by AVX-VNNI.
pub(crate) type AvxVnni = Avx2Words<BYTES>;

/// Words are four bytes, those of `a` with sign and those of `b` without it, summed in i32. The magnitudes of the first two and of
/// the last two bytes of `a` add up to at most 128, so that the sums of `vpmaddubsw` do not saturate.
pub(crate) type Avx2Bounded = Avx2Words<BOUNDED>;

const F32: u8 = 0;
const BYTES: u8 = 1;
const BOUNDED: u8 = 2;

/// All of them differ only in how words are multiplied. [`add`](Simd::add) and [`mask`](Simd::mask) are for sums in f32.
pub(crate) struct Avx2Words<const WORD: u8>;

impl<const WORD: u8> Simd for Avx2Words<WORD> {
    const LANES: usize = 8;
    type Vector = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m256 {
        unsafe { _mm256_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, vector: __m256) {
        unsafe { _mm256_storeu_ps(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m256 {
        unsafe { _mm256_broadcast_ss(&*from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, sum: __m256) -> __m256 {
        unsafe {
            let (a_bits, b_bits) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let sum_bits = _mm256_castps_si256(sum);
            match WORD {
                F32 => _mm256_fmadd_ps(a, b, sum),
                BYTES => _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(sum_bits, a_bits, b_bits)),
                _ => {
                    let pairs = _mm256_maddubs_epi16(b_bits, a_bits);
                    let products = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    _mm256_castsi256_ps(_mm256_add_epi32(sum_bits, products))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn mask(bits: *const u8, vector: __m256) -> __m256 {
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(*bits)), bit);
            _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)), vector)
        }
    }

    #[inline(always)]
    unsafe fn widen(pairs: __m256) -> (__m256, __m256) {
        unsafe {
            let pairs = _mm256_castps_si256(pairs);
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(HIGH_HALF));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn widen_bytes(bytes: __m256) -> [__m256; 4] {
        unsafe {
            let bytes = _mm256_castps_si256(bytes);
            // To the top of the lane, and down again with the sign. No closure: it would not be compiled for AVX2.
            let first = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(bytes));
            let second = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<16>(bytes));
            let third = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<8>(bytes));
            let fourth = _mm256_srai_epi32::<24>(bytes);
            [
                _mm256_cvtepi32_ps(first),
                _mm256_cvtepi32_ps(second),
                _mm256_cvtepi32_ps(third),
                _mm256_cvtepi32_ps(fourth),
            ]
        }
    }
}
