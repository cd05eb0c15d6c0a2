//! Portable code, for every processor.

// SAFETY (of every block in this file): see the module `simd`: callers vouch for the pointers.
#![allow(unsafe_code)]

use super::Simd;

/// Arrays, which compilers turn into the vectors of the target.
pub(crate) struct Portable;

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
    unsafe fn mask(bits: *const u8, vector: [f32; 8]) -> [f32; 8] {
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
