//! Packed matrices in int8, with a scale for each column.

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::dispatch::for_each_isa;
use crate::packed::{widen, words};
use crate::{PackedMatrix, Precision};

impl PackedMatrix {
    /// The same matrix in int8; see [`Precision::Int8`]. An int8 matrix is returned as it is.
    pub fn quantised(&self) -> Self {
        if self.precision == Precision::Int8 {
            return self.clone();
        }
        let width = self.isa.panel_width();
        let panel_stride = words(Precision::Int8, self.k) * width;
        let mut data = Aligned::zeros(self.n.div_ceil(width) * panel_stride);
        let mut scales = vec![0.0; self.n];
        let panels = data.par_chunks_mut(panel_stride.max(1)).zip(scales.par_chunks_mut(width));
        panels.zip(self.words().par_chunks(self.panel_stride().max(1))).for_each(|((to, scales), panel)| {
            let mut wide = Vec::new();
            let panel = match self.precision {
                Precision::Bf16 => {
                    wide.resize(2 * panel.len(), 0);
                    widen(self.isa, panel, width, &mut wide);
                    &wide
                }
                _ => panel,
            };
            let mut all = [0.0; WIDEST];
            quantise(self.isa, panel, &mut all[..width], to);
            scales.copy_from_slice(&all[..scales.len()]);
        });
        Self { scales, ..Self::of_words(self.isa, Precision::Int8, (self.k, self.n), data) }
    }
}

for_each_isa! {
    /// Quantises the rows of an f32 panel into words of four int8 and a scale for each column: its largest magnitude divided by
    /// [`LARGEST`]. A column with a NaN gets the scale NaN, so that its products are NaN as well.
    fn quantise(isa: Isa, panel: &[u32], scales: &mut [f32], to: &mut [u32]) {
        let width = scales.len();
        for row in panel.chunks_exact(width) {
            for (scale, bits) in scales.iter_mut().zip(row) {
                let magnitude = f32::from_bits(*bits).abs();
                *scale = if magnitude > *scale || magnitude.is_nan() { magnitude } else { *scale };
            }
        }
        for scale in scales.iter_mut() {
            *scale /= LARGEST;
        }
        for (rows, words) in panel.chunks(4 * width).zip(to.chunks_exact_mut(width)) {
            for (at, row) in rows.chunks_exact(width).enumerate() {
                for ((word, bits), scale) in words.iter_mut().zip(row).zip(scales.iter()) {
                    // The low bits of the sum are the nearest integer, the others those of ROUNDER. In a column of zeros the
                    // quotient 0 / 0 becomes 0.
                    let number = (f32::from_bits(*bits) / scale).clamp(-LARGEST, LARGEST) + ROUNDER;
                    let byte = if *scale > 0.0 { number.to_bits() & 0xff } else { 0 };
                    *word |= byte << (8 * at);
                }
            }
        }
    }
}

/// `1.5 * 2^23`: a sum with it has no bits for a fraction.
const ROUNDER: f32 = 12_582_912.0;
/// The most columns of a panel.
const WIDEST: usize = 32;
/// The largest integer that a weight becomes.
const LARGEST: f32 = 127.0;
