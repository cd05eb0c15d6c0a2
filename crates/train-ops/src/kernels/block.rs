//! A block of the result that fits the second-level cache, tile by tile.

// SAFETY (of every block in this file): the caller of `run` vouches for the pointers in `Block` and their extents.
#![allow(unsafe_code)]

use super::simd::{Portable, Simd};
use super::tile::{Ahead, Factors, First, LINE, STRETCH, tile};
use super::{Isa, Precision};

/// `to = from + a b` for some rows of `a` and some panels of `b`, and the same of other factors before it.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) rows: usize,
    /// Columns of the result; the last panel may have more.
    pub(super) columns: usize,
    pub(super) first: Option<First>,
    pub(super) factors: Factors,
    /// What is read after the last panel, whose tiles fetch it as those of other panels fetch the next: any address will do.
    pub(super) next: *const u32,
    /// `rows` rows of `columns`; a stride of 0 repeats one row.
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

impl Block {
    /// Computes the block.
    ///
    /// # Safety
    /// - `isa` is one that the processor supports.
    /// - `a`, `b` and `from` are valid for reading what the fields describe, and `to` for writing. No other thread
    ///   touches that part of `to` meanwhile.
    pub(super) unsafe fn run(&self, isa: Isa, precision: Precision) {
        unsafe {
            match (isa, precision) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { bf16: true }, Precision::Bf16) => avx512_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { .. }, _) => avx512(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, Precision::Bf16) => avx2_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => avx2(self),
                _ => portable(self),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(block: &Block) {
    unsafe { tiles::<super::simd::Avx512Bf16, 14, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(block: &Block) {
    unsafe { tiles::<super::simd::Avx512, 14, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(block: &Block) {
    unsafe { tiles::<super::simd::Avx2, 6, 1>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_bf16(block: &Block) {
    unsafe { tiles::<super::simd::Avx2, 6, 2>(block) }
}

unsafe fn portable(block: &Block) {
    unsafe { tiles::<Portable, 4, 1>(block) }
}

/// Panel by panel, so that a panel stays in a near cache while the rows pass by; meanwhile the next one is fetched, a part
/// of it with each tile.
#[inline(always)]
unsafe fn tiles<S: Simd, const ROWS: usize, const WIDEN: usize>(block: &Block) {
    let width = 2 * S::LANES;
    // Tiles of nearly as many rows each: one of a row or two would wait for its own sums.
    let count = block.rows.div_ceil(ROWS).max(1);
    let (rows_of_all, longer) = (block.rows / count, block.rows % count);
    let units = block.factors.units;
    let panel = if block.factors.b_step == width { units * width } else { 0 };
    let lines = panel.div_ceil(LINE).div_ceil(count);
    let lines_a_stretch = lines.div_ceil(units.div_ceil(STRETCH).max(1));
    // What is left of a tile when the result has no columns for all of it.
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
                    ahead: Ahead {
                        from: following.wrapping_add(index * lines * LINE),
                        lines: lines_a_stretch,
                    },
                };
                let from = block.from.add(row * block.from_stride + column).cast::<u32>();
                let to = block.to.add(row * block.to_stride + column).cast::<u32>();
                if columns == width {
                    work.run::<S, ROWS, 2, WIDEN>(from, block.from_stride, to, block.to_stride);
                } else if columns == S::LANES {
                    work.run::<S, ROWS, 1, WIDEN>(from, block.from_stride, to, block.to_stride);
                } else {
                    let sums = edge.as_mut_ptr();
                    for row in 0..rows {
                        from.add(row * block.from_stride).copy_to(sums.add(row * width), columns);
                    }
                    if columns <= S::LANES {
                        work.run::<S, ROWS, 1, WIDEN>(sums, width, sums, width);
                    } else {
                        work.run::<S, ROWS, 2, WIDEN>(sums, width, sums, width);
                    }
                    for row in 0..rows {
                        sums.add(row * width).copy_to(to.add(row * block.to_stride), columns);
                    }
                }
            }
            row += rows;
        }
        column += columns;
        (first, factors) = (first.map(|first| first.next_panel(width)), factors.next_panel());
    }
}

/// A tile of some rows.
struct Tile {
    rows: usize,
    first: Option<First>,
    factors: Factors,
    ahead: Ahead,
}

impl Tile {
    /// Computes it; it has at most `ROWS` rows.
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
        &self,
        from: *const u32,
        from_stride: usize,
        to: *mut u32,
        to_stride: usize,
    ) {
        macro_rules! tile_of {
            ($($n:literal)*) => {
                match self.rows {
                    // The comparison is between constants: tiles of more rows than registers are never made.
                    $($n if $n <= ROWS => unsafe {
                        let first = self.first.as_ref();
                        tile::<S, $n, VECTORS, WIDEN>(first, &self.factors, self.ahead, from, from_stride, to, to_stride)
                    },)*
                    _ => {}
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}
