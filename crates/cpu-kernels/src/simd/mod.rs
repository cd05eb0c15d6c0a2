//! The vector instructions that the micro-kernels need, once for each instruction set.

// SAFETY (of every block in this file): an instruction is reached only through functions that are compiled for its
// instruction set, and an `Isa` that the processor has leads to these. Pointers are valid for the vector that is loaded or
// stored, for which the callers argue.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2, Avx2Bounded, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16, Avx512Bounded, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, NeonBf16, NeonDot, NeonMatrix};
pub(crate) use portable::Portable;

/// One instruction set. A *word* is four bytes: an f32, a pair of bf16 or four int8 that follow each other in
/// `k`.
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

    /// As [`multiply_add`](Self::multiply_add), but by the instruction with the most products that
    /// [`add_group`](Self::add_group) uses, in its order. It measures the peak.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn most_multiply_adds(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector {
        unsafe { Self::multiply_add(a, b, sum) }
    }

    /// The vector with zeros in the lanes whose bits are not set; the lowest bit is that of the first lane.
    ///
    /// # Safety
    /// The processor has the instruction set, and `bits` is valid for reading a bit for each lane.
    unsafe fn mask(bits: *const u8, vector: Self::Vector) -> Self::Vector;

    /// Pairs of bf16 as f32: the first of each, and the second.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen(pairs: Self::Vector) -> (Self::Vector, Self::Vector);

    /// Words of four int8 as f32: the first of each, the second, and so on.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen_bytes(bytes: Self::Vector) -> [Self::Vector; 4];

    /// Neighbouring words of a row that [`add_group`](Self::add_group) takes at a time; 1 if it is not used,
    /// because [`splat`](Self::splat) takes no time.
    const GROUP: usize = 1;

    /// `sums += a b` for the `GROUP` words at each of `rows` and as many rows of `b`, which are `b_step` apart. The sums are
    /// in the order of [`exchange_sums`](Self::exchange_sums), and have the bits of [`multiply_add`](Self::multiply_add) word
    /// by word.
    ///
    /// # Safety
    /// The processor has the instruction set. `rows` are valid for reading `GROUP` words, and `b` for as many rows of
    /// `VECTORS` vectors.
    #[inline(always)]
    unsafe fn add_group<const ROWS: usize, const VECTORS: usize>(
        rows: [*const u32; ROWS],
        b: *const u32,
        b_step: usize,
        sums: &mut [[Self::Vector; VECTORS]; ROWS],
    ) {
        unsafe {
            for word in 0..Self::GROUP {
                for (row, sums) in rows.into_iter().zip(sums.iter_mut()) {
                    let a = Self::splat(row.add(word));
                    for (at, sum) in sums.iter_mut().enumerate() {
                        *sum =
                            Self::multiply_add(a, Self::load(b.add(word * b_step + at * Self::LANES)), *sum);
                    }
                }
            }
        }
    }

    /// Puts the sums of a tile into the order in which [`add_group`](Self::add_group) keeps them, and back.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn exchange_sums<const ROWS: usize, const VECTORS: usize>(
        _: &mut [[Self::Vector; VECTORS]; ROWS],
    ) {
    }
}

/// The bits of the second bf16 of a pair.
#[cfg(target_arch = "x86_64")]
const HIGH_HALF: i32 = 0xffff_0000u32 as i32;

/// Prefetches the line at `at` into the first-level cache. It may be any address.
#[inline(always)]
pub(crate) fn prefetch(at: *const u32) {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
    let _ = at;
}

/// Prefetches the line at `at` into the second-level cache. It may be any address.
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u32) {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
    let _ = at;
}

/// Returns the same pointer through an empty piece of assembly, so that the optimiser has to assume that it has
/// changed.
#[inline(always)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), allow(clippy::pointers_in_nomem_asm_block))]
pub(crate) fn opaque(pointer: *const u32) -> *const u32 {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    let pointer = unsafe {
        let mut pointer = pointer;
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
        pointer
    };
    pointer
}
