//! The few vector instructions that a product needs, for each instruction set.

// SAFETY (of every block in this file): an instruction is reached only through functions that are compiled for its
// instruction set and called after the processor was asked for it (`Isa::supported`); pointers are valid for the vector
// that is loaded or stored, which the callers argue for.
#![allow(unsafe_code)]

/// One instruction set. A unit is four bytes: an f32, or a pair of bf16 for [`Avx512Bf16`].
pub(super) trait Simd {
    /// Units in a vector.
    const LANES: usize;
    /// A vector of units or of sums.
    type Vector: Copy;

    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self::Vector;

    /// `a + b` in f32, lane by lane.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Has the line at `at` brought into the first-level cache. Any address will do.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn prefetch(_at: *const u32) {}

    /// Has the line at `at` brought into the second-level cache. Any address will do.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn prefetch_far(_at: *const u32) {}

    /// The same pointer, where the compiler cannot see that it is the same.
    #[inline(always)]
    fn opaque(pointer: *const u32) -> *const u32 {
        pointer
    }

    /// # Safety
    /// `from` is valid for reading `LANES` units.
    unsafe fn load(from: *const u32) -> Self::Vector;

    /// # Safety
    /// `to` is valid for writing `LANES` units.
    unsafe fn store(to: *mut u32, vector: Self::Vector);

    /// # Safety
    /// `from` is valid for reading a unit.
    unsafe fn splat(from: *const u32) -> Self::Vector;

    /// `sum + a * b` in f32, lane by lane; the sum of both products for pairs.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector;

    /// The lanes whose bits are set, zeros in place of the others; the lowest bit is that of the first lane.
    ///
    /// # Safety
    /// The processor has the instruction set, and `bits` is valid for reading a bit for each lane.
    unsafe fn keep(bits: *const u8, vector: Self::Vector) -> Self::Vector;

    /// Pairs of bf16 as f32: the first of each, and the second.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen(pairs: Self::Vector) -> (Self::Vector, Self::Vector);

    /// Units of four signed bytes as f32: the first of each, the second, and so on.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen_bytes(bytes: Self::Vector) -> [Self::Vector; 4];
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    const HIGH: i32 = 0xffff_0000u32 as i32;

    /// No instruction at all, of which the compiler knows nothing but that it may change the pointer.
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block)]
    fn opaque(mut pointer: *const u32) -> *const u32 {
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
        };
        pointer
    }

    pub(crate) struct Avx2;

    impl Simd for Avx2 {
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
        unsafe fn prefetch(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_far(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }

        #[inline(always)]
        fn opaque(pointer: *const u32) -> *const u32 {
            opaque(pointer)
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
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }

        #[inline(always)]
        unsafe fn keep(bits: *const u8, vector: __m256) -> __m256 {
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
                let high = _mm256_and_si256(pairs, _mm256_set1_epi32(HIGH));
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

    pub(crate) struct Avx512;

    impl Simd for Avx512 {
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
        unsafe fn prefetch(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_far(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }

        #[inline(always)]
        fn opaque(pointer: *const u32) -> *const u32 {
            opaque(pointer)
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
            unsafe { _mm512_set1_ps(from.cast::<f32>().read()) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }

        #[inline(always)]
        unsafe fn keep(bits: *const u8, vector: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(bits.cast::<u16>().read_unaligned(), vector) }
        }

        #[inline(always)]
        unsafe fn widen(pairs: __m512) -> (__m512, __m512) {
            unsafe {
                let pairs = _mm512_castps_si512(pairs);
                let high = _mm512_and_si512(pairs, _mm512_set1_epi32(HIGH));
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

    /// Pairs of bf16, summed in f32.
    pub(crate) struct Avx512Bf16;

    impl Simd for Avx512Bf16 {
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
        unsafe fn prefetch(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_far(at: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }

        #[inline(always)]
        fn opaque(pointer: *const u32) -> *const u32 {
            opaque(pointer)
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
            unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read())) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: both types are 64 bytes of plain data.
            unsafe {
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            }
        }

        #[inline(always)]
        unsafe fn keep(bits: *const u8, vector: __m512) -> __m512 {
            unsafe { Avx512::keep(bits, vector) }
        }

        #[inline(always)]
        unsafe fn widen(pairs: __m512) -> (__m512, __m512) {
            unsafe { Avx512::widen(pairs) }
        }

        #[inline(always)]
        unsafe fn widen_bytes(bytes: __m512) -> [__m512; 4] {
            unsafe { Avx512::widen_bytes(bytes) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, Avx512Bf16};

/// Arrays that the compiler turns into whatever vectors the target has.
pub(super) struct Portable;

impl Simd for Portable {
    const LANES: usize = 8;
    type Vector = [f32; 8];

    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, vector: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write(vector) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> [f32; 8] {
        [unsafe { from.cast::<f32>().read() }; 8]
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [f32; 8], b: [f32; 8], sum: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| sum[lane] + a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn keep(bits: *const u8, vector: [f32; 8]) -> [f32; 8] {
        let bits = unsafe { *bits };
        std::array::from_fn(|lane| if bits >> lane & 1 == 1 { vector[lane] } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn widen(pairs: [f32; 8]) -> ([f32; 8], [f32; 8]) {
        let half = |bits: fn(u32) -> u32| pairs.map(|pair| f32::from_bits(bits(pair.to_bits())));
        (half(|pair| pair << 16), half(|pair| pair & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn widen_bytes(bytes: [f32; 8]) -> [[f32; 8]; 4] {
        std::array::from_fn(|at| bytes.map(|unit| f32::from(unit.to_bits().to_le_bytes()[at] as i8)))
    }
}
