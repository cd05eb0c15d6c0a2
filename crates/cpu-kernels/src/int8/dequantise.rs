//! From exact sums to results in f32.

use super::rows::Row;
use crate::Init;
use crate::dispatch::for_each_isa;
use crate::softmax::LANES;

/// The sums of a tile, and what turns them into results.
pub(super) struct TileResult<'a> {
    /// Rows of `width`.
    pub(super) sums: &'a [i32],
    pub(super) width: usize,
    pub(super) rows: &'a [Row],
    /// For each column: what is subtracted from its sums, and its scale.
    pub(super) offsets: &'a [i32],
    pub(super) scales: &'a [f32],
    /// Initial values; a bias has one for each column of the tile.
    pub(super) init: Init<'a>,
    /// The panel, rows of `width` words.
    pub(super) panel: &'a [u32],
    /// The first result. Rows are `stride` apart and have as many columns as there are scales.
    pub(super) to: *mut f32,
    pub(super) stride: usize,
}

impl TileResult<'_> {
    /// Some results from column `first` on, which hold their initial values in [`Init::Accumulate`].
    #[inline(always)]
    fn dequantise(&self, row: &Row, sums: &[i32], first: usize, to: &mut [f32]) {
        let count = to.len();
        let (scales, offsets) = (&self.scales[first..][..count], &self.offsets[first..][..count]);
        let sums = &sums[first..][..count];
        match self.init {
            Init::Zero => to.fill(0.0),
            Init::Bias(bias) => to.copy_from_slice(&bias[first..][..count]),
            Init::Accumulate => {}
        }
        for ((to, sum), (scale, offset)) in to.iter_mut().zip(sums).zip(scales.iter().zip(offsets)) {
            *to += (row.scale * scale) * sum.wrapping_sub(*offset) as f32;
        }
        for (place, value) in &row.outliers {
            let words = &self.panel[place / 4 * self.width + first..][..count];
            let shift = 24 - 8 * (place % 4) as u32;
            for ((to, word), scale) in to.iter_mut().zip(words).zip(scales) {
                let weight = ((word << shift) as i32 >> 24) as f32;
                *to += value * (scale * weight);
            }
        }
    }
}

for_each_isa! {
    /// `to = init + row.scale * scales * (sums - offsets) + Σ outliers * scales * panel`, without fused multiply-adds.
    pub(super) fn write_results(isa: Isa, tile: &TileResult<'_>) {
        for (index, (row, sums)) in tile.rows.iter().zip(tile.sums.chunks_exact(tile.width)).enumerate() {
            // SAFETY: the caller's task alone accesses these columns of the result.
            #[allow(unsafe_code)]
            let to = unsafe {
                std::slice::from_raw_parts_mut(tile.to.add(index * tile.stride), tile.scales.len())
            };
            // In pieces of a constant length, which become vectors.
            let (pieces, rest) = to.as_chunks_mut::<LANES>();
            let whole = LANES * pieces.len();
            for (at, to) in pieces.iter_mut().enumerate() {
                tile.dequantise(row, sums, LANES * at, to);
            }
            tile.dequantise(row, sums, whole, rest);
        }
    }
}
