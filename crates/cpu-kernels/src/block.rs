//! A block of the result whose operands fit the second-level cache, tile by tile.

// SAFETY (of every block in this file): the caller of `run` vouches for the pointers in `Block` and their extents.
#![allow(unsafe_code)]

use crate::isa::Kind;
use crate::simd::{Portable, Simd};
use crate::tile::{Factors, First, LINE, PREFETCH_INTERVAL, Prefetch, tile};
use crate::{Isa, Precision};

/// `to = from + first + a b` for some rows of `a` and some panels of `b`, where `first` is another such product or nothing.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) rows: usize,
    /// Columns of the result; the last panel may be wider.
    pub(crate) columns: usize,
    pub(crate) first: Option<First>,
    pub(crate) factors: Factors,
    /// Prefetched while the last panel is used; during the other panels, the next panel is prefetched. It may
    /// be any address.
    pub(crate) next: *const u32,
    /// Initial sums, `rows` rows of `columns`; a stride of 0 repeats one row.
    pub(crate) from: *const f32,
    pub(crate) from_stride: usize,
    pub(crate) to: *mut f32,
    pub(crate) to_stride: usize,
}

impl Block {
    /// Computes the block.
    ///
    /// # Safety
    /// `a`, `b` and `from` are valid for reading what the fields describe, and `to` for writing. No other thread accesses that
    /// part of `to` meanwhile.
    pub(crate) unsafe fn run(&self, isa: Isa, precision: Precision) {
        unsafe {
            match (isa.kind(), precision) {
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512 { bf16: true, .. }, Precision::Bf16) => avx512_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512 { amx: true, .. }, Precision::Bf16) => crate::amx::bf16_block(self),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512 { .. }, _) => avx512(self),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2 { .. }, Precision::Bf16) => avx2_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2 { .. }, _) => avx2(self),
                #[cfg(target_arch = "aarch64")]
                (Kind::Neon { bf16: true }, Precision::Bf16) => neon_bf16(self),
                #[cfg(target_arch = "aarch64")]
                (Kind::Neon { .. }, _) => neon(self),
                _ => portable(self),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(block: &Block) {
    unsafe { tiles::<crate::simd::Avx512Bf16, 14, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(block: &Block) {
    unsafe { tiles::<crate::simd::Avx512, 14, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(block: &Block) {
    unsafe { tiles::<crate::simd::Avx2, 6, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_bf16(block: &Block) {
    unsafe { tiles::<crate::simd::Avx2, 6, 2>(block) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,bf16")]
unsafe fn neon_bf16(block: &Block) {
    unsafe { tiles::<crate::simd::NeonBf16, 6, 1>(block) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(block: &Block) {
    unsafe { tiles::<crate::simd::Neon, 6, 1>(block) }
}

unsafe fn portable(block: &Block) {
    unsafe { tiles::<Portable, 4, 1>(block) }
}

/// Panel by panel, so that a panel stays in the second-level cache for all rows. Each tile prefetches a part of the next panel.
#[inline(always)]
unsafe fn tiles<S: Simd, const ROWS: usize, const WIDEN: usize>(block: &Block) {
    let width = 2 * S::LANES;
    // Tiles of nearly equal height, because a tile of one or two rows would be limited by the latency of its
    // sums.
    let count = block.rows.div_ceil(ROWS).max(1);
    let (rows_of_all, longer) = (block.rows / count, block.rows % count);
    let words = block.factors.words;
    let panel = if block.factors.b_step == width { words * width } else { 0 };
    let lines = panel.div_ceil(LINE).div_ceil(count);
    let lines_per_interval = lines.div_ceil(words.div_ceil(PREFETCH_INTERVAL).max(1));
    // Room for a whole tile, if the result has fewer columns.
    let mut edge = [0u32; 14 * 32];
    let (mut first, mut factors) = (block.first, block.factors);
    let mut column = 0;
    while column < block.columns {
        let columns = width.min(block.columns - column);
        let is_last = column + columns == block.columns;
        let following = if is_last { block.next } else { factors.next_panel().b };
        let mut row = 0;
        for index in 0..count {
            let rows = rows_of_all + usize::from(index < longer);
            unsafe {
                let work = Tile {
                    rows,
                    first: first.map(|first| first.at_row(row)),
                    factors: factors.at_row(row),
                    prefetch: Prefetch {
                        from: following.wrapping_add(index * lines * LINE),
                        lines: lines_per_interval,
                    },
                };
                let from = block.from.add(row * block.from_stride + column).cast::<u32>();
                let to = block.to.add(row * block.to_stride + column).cast::<u32>();
                let is_whole = columns == width || columns == S::LANES;
                let aside = edge.as_mut_ptr();
                if !is_whole {
                    for row in 0..rows {
                        from.add(row * block.from_stride).copy_to(aside.add(row * width), columns);
                    }
                }
                // One call for each width, because the whole code of a tile is inlined at each call.
                let sums = match is_whole {
                    true => (from, block.from_stride, to, block.to_stride),
                    false => (aside.cast_const(), width, aside, width),
                };
                if columns <= S::LANES {
                    work.run::<S, ROWS, 1, WIDEN>(sums);
                } else {
                    work.run::<S, ROWS, 2, WIDEN>(sums);
                }
                if !is_whole {
                    for row in 0..rows {
                        aside.add(row * width).copy_to(to.add(row * block.to_stride), columns);
                    }
                }
            }
            row += rows;
        }
        column += columns;
        (first, factors) = (first.map(|first| first.next_panel(width)), factors.next_panel());
    }
}

/// A tile of `rows` rows.
struct Tile {
    rows: usize,
    first: Option<First>,
    factors: Factors,
    prefetch: Prefetch,
}

impl Tile {
    /// Computes the tile, which has at most `ROWS` rows.
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
        &self,
        (from, from_stride, to, to_stride): (*const u32, usize, *mut u32, usize),
    ) {
        macro_rules! tile_of {
            ($($n:literal)*) => {
                match self.rows {
                    // A comparison of constants: no code is generated for tiles that do not fit the registers.
                    $($n if $n <= ROWS => unsafe {
                        let first = self.first.as_ref();
                        tile::<S, $n, VECTORS, WIDEN>(first, &self.factors, self.prefetch, from, from_stride, to, to_stride)
                    },)*
                    _ => {}
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}
