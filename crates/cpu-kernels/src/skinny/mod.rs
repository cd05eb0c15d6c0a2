//! Skinny products, of a few rows, as in decoding: each weight is used only a few times, so memory bandwidth is the limit.
//!
//! A task reads the panels of its columns once, in the order of their addresses, and widens bf16 and int8 in
//! registers. The sums are computed in the order of [`product`](crate::product()), so they have the same bits.

// SAFETY (of every block in this file): the caller of `Skinny::run` vouches for the pointers in `Skinny` and their extents.
// Rows of a tile and columns of a panel lie within them; the last panel, if the result has fewer columns, goes through an
// array with room for the largest tile.
#![allow(unsafe_code)]

mod panel;

use panel::tile_of_rows;

use crate::isa::Kind;
use crate::simd::{Portable, Simd};
use crate::tile::{LINE, PREFETCH_INTERVAL};
use crate::{Isa, PackedMatrix, Precision};

/// The largest number of rows for which this is faster than blocks. In f32 these are the rows of one tile,
/// which is limited by memory. If `b` is widened, once for each tile, they are the rows of four tiles.
pub(crate) fn max_rows(b: &PackedMatrix) -> usize {
    match b.isa().kind() {
        Kind::Avx512 { .. } if b.widening() > 1 => 48,
        Kind::Avx2 { .. } | Kind::Neon { .. } if b.widening() > 1 => 16,
        _ => 4,
    }
}

/// The largest number of rows of a tile: their sums and the widened vectors stay in registers.
const TILE: usize = 12;

/// `to = from + (begin + a b)` for at most [`max_rows`] rows of `a` and some panels of `b`.
#[derive(Clone, Copy)]
pub(crate) struct Skinny {
    pub(crate) rows: usize,
    /// Columns of the result; the last panel may be wider.
    pub(crate) columns: usize,
    /// Words of a panel's column, and how many of them are summed before the sum is added to the result.
    pub(crate) words: usize,
    pub(crate) depth: usize,
    /// `rows` rows of `words` words, or of two or four times as many where pairs or bytes are widened.
    pub(crate) a: *const u32,
    pub(crate) a_stride: usize,
    /// Panels of `words` rows of the panel width.
    pub(crate) b: *const u32,
    pub(crate) sums: Sums,
}

/// Initial values of the sums, and their destination. Rows are `..._stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    /// The sums continue from these, for whole panels; null for zeros.
    pub(crate) begin: *const f32,
    pub(crate) begin_stride: usize,
    /// The first sums are added to these; a stride of 0 repeats one row.
    pub(crate) from: *const f32,
    pub(crate) from_stride: usize,
    pub(crate) to: *mut f32,
    pub(crate) to_stride: usize,
}

impl Sums {
    /// The same from another row and column on.
    fn at(&self, row: usize, column: usize) -> Self {
        Self {
            begin: match self.begin.is_null() {
                true => self.begin,
                false => self.begin.wrapping_add(row * self.begin_stride + column),
            },
            from: self.from.wrapping_add(row * self.from_stride + column),
            to: self.to.wrapping_add(row * self.to_stride + column),
            ..*self
        }
    }
}

impl Skinny {
    /// Computes the product.
    ///
    /// # Safety
    /// As for [`Block::run`](crate::block::Block::run).
    pub(crate) unsafe fn run(&self, isa: Isa, precision: Precision) {
        unsafe {
            match (isa.kind(), precision) {
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512 { bf16: true, .. }, Precision::Bf16) => avx512_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512 { .. }, precision) => avx512(self, precision),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2 { .. }, precision) => avx2(self, precision),
                #[cfg(target_arch = "aarch64")]
                (Kind::Neon { bf16: true }, Precision::Bf16) => neon_bf16(self),
                #[cfg(target_arch = "aarch64")]
                (Kind::Neon { .. }, precision) => neon(self, precision),
                _ => portable(self, precision),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(work: &Skinny) {
    // The instruction multiplies pairs: nothing is widened.
    unsafe { panels::<crate::simd::Avx512Bf16, TILE, 8>(work, Precision::F32) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(work: &Skinny, precision: Precision) {
    unsafe { panels::<crate::simd::Avx512, TILE, 8>(work, precision) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(work: &Skinny, precision: Precision) {
    unsafe { panels::<crate::simd::Avx2, 4, 5>(work, precision) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,bf16")]
unsafe fn neon_bf16(work: &Skinny) {
    unsafe { panels::<crate::simd::NeonBf16, 4, 4>(work, Precision::F32) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(work: &Skinny, precision: Precision) {
    unsafe { panels::<crate::simd::Neon, 4, 4>(work, precision) }
}

unsafe fn portable(work: &Skinny, precision: Precision) {
    unsafe { panels::<Portable, 4, 4>(work, precision) }
}

/// With tiles of up to `ROWS` rows, or `BYTE_ROWS` for int8, whose widening takes more registers.
#[inline(always)]
unsafe fn panels<S: Simd, const ROWS: usize, const BYTE_ROWS: usize>(work: &Skinny, precision: Precision) {
    unsafe {
        match precision {
            Precision::F32 => panel_by_panel::<S, ROWS, 1>(work),
            Precision::Bf16 => panel_by_panel::<S, ROWS, 2>(work),
            Precision::Int8 => panel_by_panel::<S, BYTE_ROWS, 4>(work),
        }
    }
}

/// Each panel for all rows, up to `ROWS` at a time, while it is in cache. Tiles prefetch the next panel.
#[inline(always)]
unsafe fn panel_by_panel<S: Simd, const ROWS: usize, const WIDEN: usize>(work: &Skinny) {
    let width = 2 * S::LANES;
    let count = work.rows.div_ceil(ROWS).max(1);
    let (rows_of_all, longer) = (work.rows / count, work.rows % count);
    // A single tile is limited by its own reads. With several tiles, each prefetches a part of the next panel.
    let lines = if count == 1 { 0 } else { (work.words * width).div_ceil(LINE).div_ceil(count) };
    let ahead_lines = lines.div_ceil(work.words.div_ceil(PREFETCH_INTERVAL).max(1));
    let mut b = work.b;
    // Room for a whole panel, if the result has fewer columns.
    let mut edge = [0.0f32; TILE * 32];
    let mut first = 0;
    while first < work.columns {
        let columns = width.min(work.columns - first);
        let mut row = 0;
        for index in 0..count {
            let rows = rows_of_all + usize::from(index < longer);
            unsafe {
                let ahead = (b.wrapping_add(work.words * width + index * lines * LINE), ahead_lines);
                let a = work.a.add(row * work.a_stride);
                let sums = work.sums.at(row, first);
                let is_whole = columns == width;
                let (from, to) = (edge.as_ptr(), edge.as_mut_ptr());
                if !is_whole {
                    for row in 0..rows {
                        sums.from.add(row * sums.from_stride).copy_to(to.add(row * width), columns);
                    }
                }
                // One call, because the whole code of a tile is inlined at each call.
                let aside = Sums { from, from_stride: width, to, to_stride: width, ..sums };
                let target = if is_whole { sums } else { aside };
                tile_of_rows::<S, ROWS, WIDEN>(rows, work, a, b, target, ahead);
                if !is_whole {
                    for row in 0..rows {
                        to.add(row * width).copy_to(sums.to.add(row * sums.to_stride), columns);
                    }
                }
            }
            row += rows;
        }
        b = b.wrapping_add(work.words * width);
        first += columns;
    }
}
