//! Copies with a dropout mask of bits applied.

// SAFETY (of every block in this file): the caller of `copy` vouches for the pointers in `MaskedCopy` and their extents.
#![allow(unsafe_code)]

use crate::Isa;
use crate::isa::Kind;
use crate::simd::{Portable, Simd};

/// Some columns of some rows; rows begin `..._stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct MaskedCopy {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// A bit for each column, the first in the lowest bit of the first byte.
    pub(crate) bits: *const u8,
    pub(crate) bits_stride: usize,
    pub(crate) from: *const f32,
    pub(crate) from_stride: usize,
    pub(crate) to: *mut f32,
    pub(crate) to_stride: usize,
}

impl MaskedCopy {
    /// `to = mask ∘ from`: zeros in place of values whose bit is not set.
    ///
    /// # Safety
    /// The pointers are valid for what the fields describe, and no other thread accesses that part of `to` meanwhile.
    pub(crate) unsafe fn copy(&self, isa: Isa) {
        match isa.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 { .. } => unsafe { avx512(self) },
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 { .. } => unsafe { avx2(self) },
            #[cfg(target_arch = "aarch64")]
            Kind::Neon { .. } => unsafe { neon(self) },
            _ => unsafe { vectors::<Portable>(self) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(work: &MaskedCopy) {
    unsafe { vectors::<crate::simd::Avx512>(work) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(work: &MaskedCopy) {
    unsafe { vectors::<crate::simd::Avx2>(work) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(work: &MaskedCopy) {
    unsafe { vectors::<crate::simd::Neon>(work) }
}

#[inline(always)]
unsafe fn vectors<S: Simd>(work: &MaskedCopy) {
    let whole = work.columns / S::LANES * S::LANES;
    for row in 0..work.rows {
        unsafe {
            let bits = work.bits.add(row * work.bits_stride);
            let (from, to) = (work.from.add(row * work.from_stride), work.to.add(row * work.to_stride));
            for at in (0..whole).step_by(S::LANES) {
                S::store(to.add(at).cast(), S::mask(bits.add(at / 8), S::load(from.add(at).cast())));
            }
            for at in whole..work.columns {
                *to.add(at) = if *bits.add(at / 8) >> (at % 8) & 1 == 1 { *from.add(at) } else { 0.0 };
            }
        }
    }
}
