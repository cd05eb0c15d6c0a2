//! Exact sums of products of integers, a tile at a time.

// SAFETY (of every block in this file): the caller of `sums` vouches for the tile's pointers and their extents; an `Engine` is
// one that the processor has.
#![allow(unsafe_code)]

use super::Engine;
#[cfg(target_arch = "x86_64")]
use super::bounded::Excess;
use super::rows::Row;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::simd::Simd;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::tile::sum_products;
use crate::tile::{Factors, Prefetch};

/// Some rows of integers and a panel of the matrix.
pub(super) struct Tile<'a> {
    /// At most [`Engine::tile_rows`].
    pub(super) rows: &'a [Row],
    /// For all engines except AMX, whose tiles also read rows beyond these.
    pub(super) factors: Factors,
    pub(super) prefetch: Prefetch,
}

/// Room for the sums of a tile, row by row, each of a panel's width.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [i32; 32 * 32]);

impl Tile<'_> {
    /// The sums of the tile. Those of AMX are computed elsewhere, with the registers of a whole task.
    ///
    /// # Safety
    /// The factors are valid for the tile's rows and their words, and the panel has the engine's
    /// [`panel_form`](Engine::panel_form).
    pub(super) unsafe fn sums(&self, engine: Engine, to: &mut Sums) {
        let to = to.0.as_mut_ptr();
        unsafe {
            match engine {
                #[cfg(target_arch = "x86_64")]
                Engine::Amx | Engine::Vnni => vnni(self, to.cast()),
                #[cfg(target_arch = "x86_64")]
                Engine::AvxVnni => avx_vnni(self, to.cast()),
                #[cfg(target_arch = "x86_64")]
                Engine::Avx512 => avx512(self, to.cast()),
                #[cfg(target_arch = "x86_64")]
                Engine::Avx2 => avx2(self, to.cast()),
                #[cfg(target_arch = "aarch64")]
                Engine::NeonMatrix => neon_matrix(self, to.cast()),
                #[cfg(target_arch = "aarch64")]
                Engine::NeonDot => neon_dot(self, to.cast()),
                _ => portable(self, to),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_height::<crate::simd::Avx512Vnni, 14>(tile, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx_vnni(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_height::<crate::simd::AvxVnni, 6>(tile, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_bounded_rows::<crate::simd::Avx512Bounded, 14>(tile, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_bounded_rows::<crate::simd::Avx2Bounded, 6>(tile, to) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn neon_matrix(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_height::<crate::simd::NeonMatrix, 6>(tile, to) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn neon_dot(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_height::<crate::simd::NeonDot, 6>(tile, to) }
}

/// For panels of any width, whose sums stay in the first-level cache.
unsafe fn portable(tile: &Tile<'_>, to: *mut i32) {
    let Factors { words, a, a_stride, b, b_step: width, .. } = tile.factors;
    for row in 0..tile.rows.len() {
        let sums = unsafe { std::slice::from_raw_parts_mut(to.add(row * width), width) };
        sums.fill(0);
        for word in 0..words {
            let [a0, a1, a2, a3] =
                unsafe { a.add(row * a_stride + word).cast::<[i8; 4]>().read() }.map(i32::from);
            let b = unsafe { std::slice::from_raw_parts(b.add(word * width), width) };
            for (sum, word) in sums.iter_mut().zip(b) {
                let [b0, b1, b2, b3] = word.to_le_bytes().map(|byte| i32::from(byte as i8));
                *sum += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3;
            }
        }
    }
}

/// For rows within the bound, and their excess.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn of_bounded_rows<S: Simd, const ROWS: usize>(tile: &Tile<'_>, to: *mut u32) {
    unsafe { of_height::<S, ROWS>(tile, to) }
    let Factors { b, b_step, .. } = tile.factors;
    for (index, row) in tile.rows.iter().enumerate().filter(|(_, row)| !row.excess.is_empty()) {
        unsafe {
            let (left, right) = (to.add(2 * index * S::LANES), to.add((2 * index + 1) * S::LANES));
            let mut sums = [S::load(left), S::load(right)];
            for Excess { word, bytes } in &row.excess {
                let (a, b) = (S::splat(bytes), b.add(word * b_step));
                sums[0] = S::multiply_add(a, S::load(b), sums[0]);
                sums[1] = S::multiply_add(a, S::load(b.add(S::LANES)), sums[1]);
            }
            S::store(left, sums[0]);
            S::store(right, sums[1]);
        }
    }
}

/// With a constant number of rows, whose sums stay in registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn of_height<S: Simd, const ROWS: usize>(tile: &Tile<'_>, to: *mut u32) {
    macro_rules! rows_of {
        ($($n:literal)*) => {
            match tile.rows.len() {
                // A comparison of constants: no code is generated for tiles that do not fit the registers.
                $($n if $n <= ROWS => unsafe {
                    let mut sums = [[S::zero(); 2]; $n];
                    sum_products::<S, $n, 2, 1>(&tile.factors, tile.prefetch, &mut sums);
                    for (row, sums) in sums.into_iter().enumerate() {
                        for (at, sum) in sums.into_iter().enumerate() {
                            S::store(to.add((2 * row + at) * S::LANES), sum);
                        }
                    }
                },)*
                _ => debug_assert!(false, "more rows than a tile has"),
            }
        };
    }
    rows_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}
