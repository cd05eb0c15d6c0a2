//! Converts exact sums to results in f32.

use super::rows::Row;
use crate::Init;
use crate::dispatch::for_each_isa;
use crate::softmax::LANES;

/// The sums of a tile, and the data that is needed to dequantise them.
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

/// This many neighbouring results; the compiler makes vectors of the arrays.
type Lanes<T> = [T; LANES];

impl TileResult<'_> {
    /// Results from column `first` on. `old` are those of [`Init::Accumulate`].
    #[inline(always)]
    fn dequantise(&self, row: &Row, sums: &[i32], first: usize, old: &Lanes<f32>) -> Lanes<f32> {
        let mut results = match self.init {
            Init::Zero => [0.0; LANES],
            Init::Bias(bias) => lanes(bias, first),
            Init::Accumulate => *old,
        };
        let (sums, offsets, scales) =
            (lanes(sums, first), lanes(self.offsets, first), lanes(self.scales, first));
        for lane in 0..LANES {
            let sum = sums[lane].wrapping_sub(offsets[lane]).wrapping_sub(row.offset) as f32;
            results[lane] += (row.scale * scales[lane]) * sum;
        }
        for (place, value) in &row.outliers {
            let words = lanes(self.panel, place / 4 * self.width + first);
            let shift = 24 - 8 * (place % 4) as u32;
            for lane in 0..LANES {
                let weight = ((words[lane] << shift) as i32 >> 24) as f32;
                results[lane] += value * (scales[lane] * weight);
            }
        }
        results
    }
}

/// The values from `first` on, and zeros after the last one.
#[inline(always)]
fn lanes<T: Copy + Default>(values: &[T], first: usize) -> Lanes<T> {
    let values = &values[first..];
    if let Some(all) = values.first_chunk() {
        return *all;
    }
    let mut all = [T::default(); LANES];
    all[..values.len()].copy_from_slice(values);
    all
}

for_each_isa! {
    /// `to = init + row.scale * scales * (sums - offsets) + Σ outliers * scales * panel`, without fused multiply-adds.
    pub(super) fn write_results(isa: Isa, tile: &TileResult<'_>) {
        let columns = tile.scales.len();
        // Row by row, because rows may be at distances at which they compete for the same cache lines.
        for (index, (row, sums)) in tile.rows.iter().zip(tile.sums.chunks_exact(tile.width)).enumerate() {
            // SAFETY: the caller's task alone accesses these columns of the result.
            #[allow(unsafe_code)]
            let to =
                unsafe { std::slice::from_raw_parts_mut(tile.to.add(index * tile.stride), columns) };
            let (whole, rest) = to.as_chunks_mut::<LANES>();
            let first_of_rest = LANES * whole.len();
            for (at, to) in whole.iter_mut().enumerate() {
                *to = tile.dequantise(row, sums, LANES * at, to);
            }
            if !rest.is_empty() {
                let results = tile.dequantise(row, sums, first_of_rest, &lanes(rest, 0));
                rest.copy_from_slice(&results[..rest.len()]);
            }
        }
    }
}
