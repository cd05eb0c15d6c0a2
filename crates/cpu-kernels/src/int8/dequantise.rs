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
    /// Results from column `first` on, from their initial values.
    #[inline(always)]
    fn dequantise(
        &self,
        row: &Row,
        first: usize,
        (sums, offsets): (&Lanes<i32>, &Lanes<i32>),
        scales: &Lanes<f32>,
        mut results: Lanes<f32>,
    ) -> Lanes<f32> {
        for lane in 0..LANES {
            let sum = sums[lane].wrapping_sub(offsets[lane]).wrapping_sub(row.offset) as f32;
            results[lane] += (row.scale * scales[lane]) * sum;
        }
        for (place, value) in &row.outliers {
            let words = &self.panel[place / 4 * self.width + first..][..LANES];
            let shift = 24 - 8 * (place % 4) as u32;
            for lane in 0..LANES {
                let weight = ((words[lane] << shift) as i32 >> 24) as f32;
                results[lane] += value * (scales[lane] * weight);
            }
        }
        results
    }

    /// The initial values of `to`, which has them already in [`Init::Accumulate`], from column `first` on.
    #[inline(always)]
    fn initial(&self, first: usize, to: &[f32]) -> Lanes<f32> {
        match self.init {
            Init::Zero => [0.0; LANES],
            Init::Bias(bias) => padded(&bias[first..][..to.len()]),
            Init::Accumulate => padded(to),
        }
    }
}

/// Up to [`LANES`] values, and zeros after them.
#[inline(always)]
fn padded<T: Copy + Default>(values: &[T]) -> Lanes<T> {
    if let Ok(values) = values.try_into() {
        return values;
    }
    let mut all = [T::default(); LANES];
    all[..values.len()].copy_from_slice(values);
    all
}

for_each_isa! {
    /// `to = init + row.scale * scales * (sums - offsets) + Σ outliers * scales * panel`, without fused multiply-adds.
    pub(super) fn write_results(isa: Isa, tile: &TileResult<'_>) {
        let columns = tile.scales.len();
        for (index, (row, sums)) in tile.rows.iter().zip(tile.sums.chunks_exact(tile.width)).enumerate() {
            // SAFETY: the caller's task alone accesses these columns of the result.
            #[allow(unsafe_code)]
            let to =
                unsafe { std::slice::from_raw_parts_mut(tile.to.add(index * tile.stride), columns) };
            // Row by row, because rows may be at distances at which they compete for the same cache lines.
            for (at, to) in to.chunks_mut(LANES).enumerate() {
                let first = LANES * at;
                let (scales, offsets) =
                    (padded(&tile.scales[first..][..to.len()]), padded(&tile.offsets[first..][..to.len()]));
                let sums = padded(&sums[first..][..LANES]);
                let results = tile.dequantise(row, first, (&sums, &offsets), &scales, tile.initial(first, to));
                match <&mut Lanes<f32>>::try_from(&mut *to) {
                    Ok(to) => *to = results,
                    Err(_) => to.copy_from_slice(&results[..to.len()]),
                }
            }
        }
    }
}
