//! Packed matrices in int8, with a scale for each column.

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::dispatch::for_each_isa;
use crate::words::{widen, words};
use crate::{Isa, PackedMatrix, Precision};

impl PackedMatrix {
    /// The same matrix in int8; see [`Precision::Int8`]. An int8 matrix is returned unchanged.
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
        Self::of_integers((self.isa, self.k, self.n), data, scales)
    }

    /// The transpose of an int8 matrix's integers, with scales of 1. The scales of the matrix belong to the
    /// rows of the transpose, so a product has to multiply its first factor by them
    /// ([`QuantisedRows::new`](crate::QuantisedRows::new)).
    ///
    /// # Panics
    /// If the matrix is not int8.
    pub fn transposed_integers(&self) -> Self {
        assert!(self.precision == Precision::Int8, "integers of a matrix that is not int8");
        let (width, k, n) = (self.isa.panel_width(), self.n, self.k);
        let panel_stride = words(Precision::Int8, k) * width;
        let mut data = Aligned::zeros(n.div_ceil(width) * panel_stride);
        data.par_chunks_mut(panel_stride.max(1)).enumerate().for_each(|(panel, data)| {
            for (word, row) in data.chunks_exact_mut(width).enumerate() {
                for (to, n) in row.iter_mut().zip(panel * width..n) {
                    let byte = |at: usize| if 4 * word + at < k { self.byte(n, 4 * word + at) } else { 0 };
                    *to = u32::from_le_bytes(std::array::from_fn(byte));
                }
            }
        });
        Self::of_integers((self.isa, k, n), data, vec![1.0; n])
    }

    fn of_integers((isa, k, n): (Isa, usize, usize), data: Aligned, scales: Vec<f32>) -> Self {
        let mut packed = Self { scales, ..Self::of_words(isa, Precision::Int8, (k, n), data) };
        let mut offsets = vec![0; n];
        let width = isa.panel_width();
        let panels = packed.words().par_chunks(packed.panel_stride().max(1));
        offsets
            .par_chunks_mut(width)
            .zip(panels)
            .for_each(|(offsets, panel)| add_offsets(isa, panel, width, offsets));
        packed.offsets = offsets;
        packed
    }

    /// The integer in row `k` and column `n`, as its bits.
    fn byte(&self, k: usize, n: usize) -> u8 {
        let width = self.isa.panel_width();
        self.words()[n / width * self.panel_stride() + k / 4 * width + n % width].to_le_bytes()[k % 4]
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

    /// Adds 128 times the sum of each column. The sum may wrap, as do the sums from which it is subtracted.
    fn add_offsets(isa: Isa, panel: &[u32], width: usize, offsets: &mut [i32]) {
        for row in panel.chunks_exact(width) {
            for (offset, word) in offsets.iter_mut().zip(row) {
                for shift in [24, 16, 8, 0] {
                    *offset = offset.wrapping_add(((word << shift) as i32 >> 24) << 7);
                }
            }
        }
    }
}

/// `1.5 * 2^23`: a sum with it has no bits for a fraction.
pub(crate) const ROUNDER: f32 = 12_582_912.0;
/// The largest number of columns of a panel.
const WIDEST: usize = 32;
/// The largest integer that a weight becomes.
pub(crate) const LARGEST: f32 = 127.0;
