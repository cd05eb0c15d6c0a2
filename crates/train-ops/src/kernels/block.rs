//! A block of the result that fits the second-level cache, tile by tile.

// SAFETY (of every block in this file): the caller of `run` vouches for the pointers in `Block` and their extents.
#![allow(unsafe_code)]

use super::simd::{Portable, Simd};
use super::tile::{Factors, LINE, STRETCH, tile};
use super::{Isa, Precision};

/// `to = from + a b` for some rows of `a` and some panels of `b`. Lengths are in units.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) rows: usize,
    /// Columns of the result; the last panel may have more.
    pub(super) columns: usize,
    pub(super) units: usize,
    /// `rows` rows of `units`, which are `a_step` apart: 1, or the length of a row where `a` is used transposed.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    pub(super) a_step: usize,
    /// Panels of `units` rows of the panel width, which are `b_step` apart: the panel width, or the length of a row where
    /// the panels are columns of a matrix that is not packed.
    pub(super) b: *const u32,
    pub(super) b_step: usize,
    pub(super) panel_stride: usize,
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
                (Isa::Avx2, _) => avx2(self),
                _ => portable(self),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(block: &Block) {
    unsafe { tiles::<super::simd::Avx512Bf16, 14>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(block: &Block) {
    unsafe { tiles::<super::simd::Avx512, 14>(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(block: &Block) {
    unsafe { tiles::<super::simd::Avx2, 6>(block) }
}

unsafe fn portable(block: &Block) {
    unsafe { tiles::<Portable, 4>(block) }
}

/// Panel by panel, so that a panel stays in a near cache while the rows pass by; meanwhile the next one is fetched, a part
/// of it with each tile.
#[inline(always)]
unsafe fn tiles<S: Simd, const ROWS: usize>(block: &Block) {
    let width = 2 * S::LANES;
    // Tiles of nearly as many rows each: one of a row or two would wait for its own sums.
    let count = block.rows.div_ceil(ROWS).max(1);
    let (rows_of_all, longer) = (block.rows / count, block.rows % count);
    let panel = if block.b_step == width { block.units * width } else { 0 };
    let lines = panel.div_ceil(LINE).div_ceil(count);
    let ahead_lines = lines.div_ceil(block.units.div_ceil(STRETCH).max(1));
    // What is left of a tile when the result has no columns for all of it.
    let mut edge = [0u32; 14 * 32];
    let mut first = 0;
    let mut b = block.b;
    while first < block.columns {
        let columns = width.min(block.columns - first);
        let is_last = first + columns == block.columns;
        let following = if is_last { block.next } else { b.wrapping_add(block.panel_stride) };
        let mut row = 0;
        for index in 0..count {
            let rows = rows_of_all + usize::from(index < longer);
            unsafe {
                let factors = Factors {
                    units: block.units,
                    a: block.a.add(row * block.a_stride),
                    a_stride: block.a_stride,
                    a_step: block.a_step,
                    b,
                    b_step: block.b_step,
                    ahead: following.wrapping_add(index * lines * LINE),
                    ahead_lines,
                };
                let from = block.from.add(row * block.from_stride + first).cast::<u32>();
                let to = block.to.add(row * block.to_stride + first).cast::<u32>();
                if columns == width {
                    some_rows::<S, ROWS, 2>(rows, &factors, from, block.from_stride, to, block.to_stride);
                } else if columns == S::LANES {
                    some_rows::<S, ROWS, 1>(rows, &factors, from, block.from_stride, to, block.to_stride);
                } else {
                    let sums = edge.as_mut_ptr();
                    for row in 0..rows {
                        from.add(row * block.from_stride).copy_to(sums.add(row * width), columns);
                    }
                    if columns <= S::LANES {
                        some_rows::<S, ROWS, 1>(rows, &factors, sums, width, sums, width);
                    } else {
                        some_rows::<S, ROWS, 2>(rows, &factors, sums, width, sums, width);
                    }
                    for row in 0..rows {
                        sums.add(row * width).copy_to(to.add(row * block.to_stride), columns);
                    }
                }
            }
            row += rows;
        }
        first += columns;
        b = b.wrapping_add(block.panel_stride);
    }
}

/// A tile of `rows` rows, at most `ROWS`.
#[inline(always)]
unsafe fn some_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    rows: usize,
    factors: &Factors,
    from: *const u32,
    from_stride: usize,
    to: *mut u32,
    to_stride: usize,
) {
    macro_rules! tile_of {
        ($($n:literal)*) => {
            match rows {
                // The comparison is between constants: tiles of more rows than registers are never made.
                $($n if $n <= ROWS => unsafe {
                    tile::<S, $n, VECTORS>(factors, from, from_stride, to, to_stride)
                },)*
                _ => {}
            }
        };
    }
    tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}
