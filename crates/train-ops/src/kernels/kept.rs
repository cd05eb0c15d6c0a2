//! Values of which some do not count, by a bit for each.

// SAFETY (of every block in this file): the caller of `copy` vouches for the instruction set and for the pointers in
// `KeptRows` and their extents.
#![allow(unsafe_code)]

use super::Isa;
use super::simd::{Portable, Simd};

/// Some columns of some rows; rows begin `..._stride` apart.
#[derive(Clone, Copy)]
pub(super) struct KeptRows {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// A bit for each column, the first in the lowest bit of the first byte.
    pub(super) bits: *const u8,
    pub(super) bits_stride: usize,
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

impl KeptRows {
    /// `to = kept ∘ from`: zeros in place of values whose bit is not set.
    ///
    /// # Safety
    /// The processor has `isa`; the pointers are valid for what the fields describe, and no other thread touches that part
    /// of `to` meanwhile.
    pub(super) unsafe fn copy(&self, isa: Isa) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 { .. } => unsafe { avx512(self) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2(self) },
            _ => unsafe { vectors::<Portable>(self) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(work: &KeptRows) {
    unsafe { vectors::<super::simd::Avx512>(work) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(work: &KeptRows) {
    unsafe { vectors::<super::simd::Avx2>(work) }
}

#[inline(always)]
unsafe fn vectors<S: Simd>(work: &KeptRows) {
    let whole = work.columns / S::LANES * S::LANES;
    for row in 0..work.rows {
        unsafe {
            let bits = work.bits.add(row * work.bits_stride);
            let (from, to) = (work.from.add(row * work.from_stride), work.to.add(row * work.to_stride));
            for at in (0..whole).step_by(S::LANES) {
                S::store(to.add(at).cast(), S::keep(bits.add(at / 8), S::load(from.add(at).cast())));
            }
            for at in whole..work.columns {
                *to.add(at) = if *bits.add(at / 8) >> (at % 8) & 1 == 1 { *from.add(at) } else { 0.0 };
            }
        }
    }
}
