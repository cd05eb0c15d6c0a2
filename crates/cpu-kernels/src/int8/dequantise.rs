//! From exact sums to results in f32.

use super::rows::Row;
use crate::dispatch::for_each_isa;

/// A row of a tile: its sums, and what turns them into results.
pub(super) struct Dequantise<'a> {
    /// One for each column of the panel.
    pub(super) sums: &'a [i32],
    pub(super) row: &'a Row,
    /// What is subtracted from the sums; empty for nothing.
    pub(super) offsets: &'a [i32],
    /// The scales of the columns.
    pub(super) scales: &'a [f32],
    /// The panel, rows of as many words as there are sums.
    pub(super) panel: &'a [u32],
}

for_each_isa! {
    /// `to += row.scale * scales * (sums - offsets) + Σ outliers * scales * panel`, without fused multiply-adds. `to` may have
    /// fewer columns than the panel.
    pub(super) fn add_dequantised(isa: Isa, tile: &Dequantise<'_>, to: &mut [f32]) {
        let Dequantise { sums, row, offsets, scales, panel } = tile;
        // Both loops with constant lengths where the panel is whole.
        if offsets.is_empty() {
            for ((to, sum), scale) in to.iter_mut().zip(sums.iter()).zip(scales.iter()) {
                *to += (row.scale * scale) * *sum as f32;
            }
        } else {
            for (((to, sum), scale), offset) in to.iter_mut().zip(sums.iter()).zip(scales.iter()).zip(offsets.iter()) {
                *to += (row.scale * scale) * sum.wrapping_sub(*offset) as f32;
            }
        }
        for (place, value) in &row.outliers {
            let (words, shift) = (&panel[place / 4 * sums.len()..][..sums.len()], 24 - 8 * (place % 4) as u32);
            for ((to, word), scale) in to.iter_mut().zip(words).zip(scales.iter()) {
                let weight = ((word << shift) as i32 >> 24) as f32;
                *to += value * (scale * weight);
            }
        }
    }
}
