//! Portable code, for every processor.

// SAFETY (of every block in this file): see the module `simd`: callers vouch for the pointers.
#![allow(unsafe_code)]

use super::Simd;

/// Words are f32.
pub(crate) type Portable = PortableWords<false>;

/// Words of `a` are pairs of i16, those of `b` four signed bytes that are widened to two pairs. Sums are i32.
pub(crate) type PortablePairs = PortableWords<true>;

/// Arrays, which compilers turn into the vectors of the target. [`add`](Simd::add) and [`mask`](Simd::mask) are for sums in f32.
pub(crate) struct PortableWords<const PAIRS: bool>;

/// The two halves of a word as signed integers.
#[inline(always)]
fn halves(word: f32) -> [i32; 2] {
    let bits = word.to_bits();
    [i32::from(bits as i16), bits as i32 >> 16]
}

impl<const PAIRS: bool> Simd for PortableWords<PAIRS> {
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
        if PAIRS {
            return std::array::from_fn(|lane| {
                let ([a0, a1], [b0, b1]) = (halves(a[lane]), halves(b[lane]));
                let sum = (sum[lane].to_bits() as i32).wrapping_add(a0 * b0).wrapping_add(a1 * b1);
                f32::from_bits(sum as u32)
            });
        }
        std::array::from_fn(|lane| sum[lane] + a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn mask(bits: *const u8, vector: [f32; 8]) -> [f32; 8] {
        let bits = unsafe { *bits };
        std::array::from_fn(|lane| if bits >> lane & 1 == 1 { vector[lane] } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn widen(pairs: [f32; 8]) -> ([f32; 8], [f32; 8]) {
        if PAIRS {
            let pair = |shift: u32, word: f32| {
                // To the top of each half, and down again with the sign.
                let [low, high] =
                    halves(f32::from_bits(word.to_bits() << shift)).map(|half| (half as i16) >> 8);
                f32::from_bits(u32::from(low as u16) | u32::from(high as u16) << 16)
            };
            return (pairs.map(|word| pair(8, word)), pairs.map(|word| pair(0, word)));
        }
        let half = |bits: fn(u32) -> u32| pairs.map(|pair| f32::from_bits(bits(pair.to_bits())));
        (half(|pair| pair << 16), half(|pair| pair & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn widen_bytes(bytes: [f32; 8]) -> [[f32; 8]; 4] {
        std::array::from_fn(|at| bytes.map(|unit| f32::from(unit.to_bits().to_le_bytes()[at] as i8)))
    }
}
