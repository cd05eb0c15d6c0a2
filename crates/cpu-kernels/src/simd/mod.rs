//! The vector instructions that the micro-kernels need, once for each instruction set.

// SAFETY (of every block in this file): an instruction is reached only through functions that are compiled for its
// instruction set, and an `Isa` that the processor has leads to these. Pointers are valid for the vector that is loaded or
// stored, for which the callers argue.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2, Avx2Pairs};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16, Avx512Pairs, Avx512Vnni};
pub(crate) use portable::Portable;

/// One instruction set. A *word* is four bytes: an f32, a pair of bf16 or four int8, neighbours in `k`.
pub(crate) trait Simd {
    /// Words in a vector.
    const LANES: usize;
    /// A vector of words or of sums.
    type Vector: Copy;

    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self::Vector;

    /// `a + b` in f32, lane by lane.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// # Safety
    /// `from` is valid for reading `LANES` words.
    unsafe fn load(from: *const u32) -> Self::Vector;

    /// # Safety
    /// `to` is valid for writing `LANES` words.
    unsafe fn store(to: *mut u32, vector: Self::Vector);

    /// The word at `from` in every lane.
    ///
    /// # Safety
    /// `from` is valid for reading a word.
    unsafe fn splat(from: *const u32) -> Self::Vector;

    /// `sum + a * b` in f32, lane by lane; for words of two or four numbers, `sum` plus their products.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector;

    /// The vector with zeros in the lanes whose bits are not set; the lowest bit is that of the first lane.
    ///
    /// # Safety
    /// The processor has the instruction set, and `bits` is valid for reading a bit for each lane.
    unsafe fn mask(bits: *const u8, vector: Self::Vector) -> Self::Vector;

    /// Pairs of bf16 as f32: the first of each, and the second. Where words are pairs of i16: four bytes as the pair of the
    /// first and the third, and that of the second and the fourth.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen(pairs: Self::Vector) -> (Self::Vector, Self::Vector);

    /// Words of four int8 as f32: the first of each, the second, and so on.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen_bytes(bytes: Self::Vector) -> [Self::Vector; 4];
}

/// The bits of the second bf16 of a pair.
#[cfg(target_arch = "x86_64")]
const HIGH_HALF: i32 = 0xffff_0000u32 as i32;

/// Prefetches the line at `at` into the first-level cache. Any address will do.
#[inline(always)]
pub(crate) fn prefetch(at: *const u32) {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches the line at `at` into the second-level cache. Any address will do.
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u32) {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same pointer, behind an empty piece of assembly: for all that the optimiser knows, it has changed.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", allow(clippy::pointers_in_nomem_asm_block))]
pub(crate) fn opaque(pointer: *const u32) -> *const u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    let pointer = unsafe {
        let mut pointer = pointer;
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
        pointer
    };
    pointer
}
