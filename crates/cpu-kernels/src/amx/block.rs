//! Products with bf16 matrices by AMX.

use super::{Product, SIDE, TILE_ROWS, Tail, Tiles};
use crate::block::Block;
use crate::simd::{Avx512, Simd};
use crate::tile::Factors;

/// Room for the sums of a product.
#[repr(C, align(64))]
struct Sums([u32; SIDE * SIDE]);

/// Computes a block of pairs of bf16 without a `first` product.
///
/// # Safety
/// As for [`Block::run`]; besides, AMX [is available](super::is_available), and rows are as [`Product`] needs them: readable up to a
/// multiple of [`SIDE`], with zeros at their ends.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn bf16_block(block: &Block) {
    let Factors { words, a, a_stride, b, panel_stride, .. } = block.factors;
    // SAFETY: AMX is available, and nothing below makes other tiles.
    let tiles = unsafe { Tiles::new() };
    let mut sums = Sums([0; SIDE * SIDE]);
    for column in (0..block.columns).step_by(SIDE) {
        let panel = b.wrapping_add(column / SIDE * panel_stride);
        // SAFETY: the panel has this many words.
        let tail = Tail::new(unsafe { std::slice::from_raw_parts(panel, words * SIDE) });
        for row in (0..block.rows).step_by(SIDE) {
            let rows = SIDE.min(block.rows - row);
            if words > 0 {
                // SAFETY: the caller guarantees it.
                unsafe {
                    tiles.bf16_sums(Product {
                        a: a.wrapping_add(row * a_stride),
                        a_stride,
                        is_tall: rows > TILE_ROWS,
                        b: panel,
                        words,
                        tail: tail.as_ptr(),
                        sums: sums.0.as_mut_ptr(),
                    });
                }
            }
            // SAFETY: the caller guarantees it; the rectangle lies within the block.
            unsafe { add(block, row..row + rows, column, &sums) }
        }
    }
}

/// `to = from + sums` for some rows of a panel.
///
/// # Safety
/// As for [`Block::run`].
#[inline(always)]
unsafe fn add(block: &Block, rows: std::ops::Range<usize>, column: usize, sums: &Sums) {
    let columns = SIDE.min(block.columns - column);
    for (row, sums) in rows.zip(sums.0.chunks_exact(SIDE)) {
        unsafe {
            let from = block.from.add(row * block.from_stride + column);
            let to = block.to.add(row * block.to_stride + column);
            if columns < SIDE {
                for (at, sum) in sums[..columns].iter().enumerate() {
                    *to.add(at) = *from.add(at) + f32::from_bits(*sum);
                }
                continue;
            }
            for at in [0, Avx512::LANES] {
                let from = Avx512::load(from.add(at).cast());
                let sum = Avx512::load(sums.as_ptr().add(at));
                Avx512::store(to.add(at).cast(), Avx512::add(from, sum));
            }
        }
    }
}
