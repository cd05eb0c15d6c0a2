use half::bf16;
use rayon::prelude::*;

use super::Isa;
use super::aligned::Aligned;

/// How the elements of a packed matrix are stored. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// One element a unit.
    F32,
    /// Two elements a unit, neighbours in `k`: what the products of AVX512-BF16 read. The other factor of a product is
    /// rounded to bf16 too, with every instruction set.
    Bf16,
    /// Four elements a unit, neighbours in `k`, as whole numbers from -127 to 127 times a scale for each column. The other
    /// factor stays f32. A product is of the whole numbers: whoever asks for it multiplies by the scales.
    Int8,
}

/// A `(k, n)` matrix in the order in which products read it: panels of as many columns as a tile has, one after
/// another, each row by row, the last filled up with zeros.
#[derive(Clone)]
pub(crate) struct PackedMatrix {
    isa: Isa,
    precision: Precision,
    k: usize,
    n: usize,
    data: Aligned,
    /// One for each column of [`Precision::Int8`], and none else.
    scales: Vec<f32>,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {:?}, {})", self.k, self.n, self.precision, self.isa.name())
    }
}

impl PackedMatrix {
    /// Packs the matrix whose element in row `k` and column `n` is `element(k, n)`.
    pub(crate) fn new(
        isa: Isa,
        precision: Precision,
        k: usize,
        n: usize,
        element: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        if precision == Precision::Int8 {
            return Self::new(isa, Precision::F32, k, n, element).quantised();
        }
        let width = isa.panel_width();
        let panel_stride = units(precision, k) * width;
        let mut data = Aligned::zeros(n.div_ceil(width) * panel_stride);
        let element = |row: usize, column: usize| if row < k { element(row, column) } else { 0.0 };
        data.par_chunks_mut(panel_stride.max(1)).enumerate().for_each(|(panel, data)| {
            // Column by column, as weights are stored by output and read along `k`.
            for column in 0..width.min(n - panel * width) {
                let n = panel * width + column;
                for (unit, row) in data.chunks_exact_mut(width).enumerate() {
                    row[column] = match precision {
                        Precision::Bf16 => pair(element(2 * unit, n), element(2 * unit + 1, n)),
                        _ => element(unit, n).to_bits(),
                    };
                }
            }
        });
        Self { isa, precision, k, n, data, scales: Vec::new() }
    }

    /// Packs `scale * b` in f32, for `b` `(k, n)` stored row by row.
    pub(crate) fn from_rows(isa: Isa, k: usize, n: usize, b: &[f32], scale: f32) -> Self {
        let width = isa.panel_width();
        let mut data = Aligned::zeros(n.div_ceil(width) * k * width);
        let panels = data.values_mut().chunks_exact_mut((k * width).max(1));
        for (panel, first) in panels.zip((0..n).step_by(width)) {
            let columns = width.min(n - first);
            for (to, row) in panel.chunks_exact_mut(width).zip(b.chunks_exact(n)) {
                scale_to(&row[first..first + columns], scale, to);
            }
        }
        Self { isa, precision: Precision::F32, k, n, data, scales: Vec::new() }
    }

    /// Packs `scale * bᵀ` in f32, for `b` `(n, k)` stored row by row.
    pub(crate) fn from_columns(isa: Isa, k: usize, n: usize, b: &[f32], scale: f32) -> Self {
        let width = isa.panel_width();
        let mut data = Aligned::zeros(n.div_ceil(width) * k * width);
        let panels = data.values_mut().chunks_exact_mut((k * width).max(1));
        for (panel, columns) in panels.zip(b.chunks(width * k.max(1))) {
            // A few rows of the panel at a time, which stay near until all of their columns are there.
            for (rows, begin) in panel.chunks_mut(NEAR * width).zip((0..k).step_by(NEAR)) {
                for (column, values) in columns.chunks_exact(k).enumerate() {
                    for (to, value) in rows[column..].iter_mut().step_by(width).zip(&values[begin..]) {
                        *to = scale * value;
                    }
                }
            }
        }
        Self { isa, precision: Precision::F32, k, n, data, scales: Vec::new() }
    }

    /// The same matrix in whole numbers; see [`Precision::Int8`].
    pub(crate) fn quantised(&self) -> Self {
        assert!(self.precision != Precision::Int8, "whole numbers of whole numbers");
        let width = self.isa.panel_width();
        let panel_stride = units(Precision::Int8, self.k) * width;
        let mut data = Aligned::zeros(self.n.div_ceil(width) * panel_stride);
        let mut scales = vec![0.0; self.n];
        let panels = data.par_chunks_mut(panel_stride.max(1)).zip(scales.par_chunks_mut(width));
        panels.zip(self.data.par_chunks(self.panel_stride().max(1))).for_each(|((to, scales), panel)| {
            let mut wide = Vec::new();
            let panel = match self.precision {
                Precision::Bf16 => {
                    wide.resize(2 * panel.len(), 0);
                    widen(panel, width, &mut wide);
                    &wide
                }
                _ => panel,
            };
            let mut all = [0.0; WIDEST];
            quantise(panel, &mut all[..width], to);
            scales.copy_from_slice(&all[..scales.len()]);
        });
        Self { isa: self.isa, precision: Precision::Int8, k: self.k, n: self.n, data, scales }
    }

    /// The transpose, packed the same way; of whole numbers in f32, as their scales would be of its rows.
    pub(crate) fn transposed(&self) -> Self {
        let precision = match self.precision {
            Precision::Int8 => Precision::F32,
            other => other,
        };
        Self::new(self.isa, precision, self.n, self.k, |k, n| self.get(n, k))
    }

    /// The element in row `k` and column `n`.
    pub(crate) fn get(&self, k: usize, n: usize) -> f32 {
        let width = self.isa.panel_width();
        let at = |unit: usize| self.data[(n / width) * self.panel_stride() + unit * width + n % width];
        match self.precision {
            Precision::Int8 => f32::from(at(k / 4).to_le_bytes()[k % 4] as i8) * self.scales[n],
            Precision::F32 => f32::from_bits(at(k)),
            Precision::Bf16 => {
                f32::from_bits(if k.is_multiple_of(2) { at(k / 2) << 16 } else { at(k / 2) & HIGH })
            }
        }
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// What a product's columns are multiplied by; empty where they are what they should be.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Elements in a unit that become f32 before they are multiplied; 1 where the unit is multiplied as it is.
    pub(super) fn widening(&self) -> usize {
        match self.precision {
            Precision::Int8 => 4,
            Precision::Bf16 if !self.isa.has_bf16() => 2,
            _ => 1,
        }
    }

    /// Whether panels become f32 in a place of their own before many rows pass by, and not in registers with each tile: of
    /// AVX2's vector units those that shift are free while two others multiply.
    pub(super) fn is_widened_aside(&self) -> bool {
        self.widening() > 1 && !(self.isa == Isa::Avx2 && self.precision == Precision::Bf16)
    }

    /// Units from one panel to the next.
    pub(super) fn panel_stride(&self) -> usize {
        units(self.precision, self.k) * self.isa.panel_width()
    }

    /// The panel that begins at column `panel * width`.
    pub(super) fn panels_from(&self, panel: usize) -> &[u32] {
        &self.data[panel * self.panel_stride()..]
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn scale_to(row: &[f32], scale: f32, to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(row) {
        *to = scale * value;
    }
}

/// The rows of a panel in f32 as units of four whole numbers times a scale for each column: its largest magnitude divided
/// by [`LARGEST`]. A column with NaN has the scale NaN, so that its products are NaN as they would be without whole numbers.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn quantise(panel: &[u32], scales: &mut [f32], to: &mut [u32]) {
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
    for (rows, units) in panel.chunks(4 * width).zip(to.chunks_exact_mut(width)) {
        for (at, row) in rows.chunks_exact(width).enumerate() {
            for ((unit, bits), scale) in units.iter_mut().zip(row).zip(scales.iter()) {
                // The bits of the sum are those of ROUNDER and, below them, the nearest whole number. Of a column of
                // zeros, 0 / 0 is made 0.
                let number = (f32::from_bits(*bits) / scale).clamp(-LARGEST, LARGEST) + ROUNDER;
                let byte = if *scale > 0.0 { number.to_bits() & 0xff } else { 0 };
                *unit |= byte << (8 * at);
            }
        }
    }
}

/// `1.5 * 2^23`, beside which an f32 has no room for a fraction.
const ROUNDER: f32 = 12_582_912.0;
/// The most columns that a panel has.
const WIDEST: usize = 32;

/// Rows of a panel that are filled at a time.
const NEAR: usize = 64;
const HIGH: u32 = 0xffff_0000;
/// The largest whole number that a weight becomes.
const LARGEST: f32 = 127.0;

/// Units along `k`.
pub(super) fn units(precision: Precision, k: usize) -> usize {
    match precision {
        Precision::F32 => k,
        Precision::Bf16 => k.div_ceil(2),
        Precision::Int8 => k.div_ceil(4),
    }
}

/// Two values rounded to bf16 in one unit, the first in the low half.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

/// Pairs as f32: for each row of pairs, the row of first values and then that of second ones.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(super) fn widen(pairs: &[u32], width: usize, wide: &mut [u32]) {
    for (pairs, wide) in pairs.chunks_exact(width).zip(wide.chunks_exact_mut(2 * width)) {
        let (first, second) = wide.split_at_mut(width);
        for ((pair, first), second) in pairs.iter().zip(first).zip(second) {
            (*first, *second) = (pair << 16, pair & HIGH);
        }
    }
}

/// Bytes as f32: for each row of units, a row for each of their four bytes.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(super) fn widen_bytes(units: &[u32], width: usize, wide: &mut [u32]) {
    for (units, wide) in units.chunks_exact(width).zip(wide.chunks_exact_mut(4 * width)) {
        for (shift, wide) in [24, 16, 8, 0].into_iter().zip(wide.chunks_exact_mut(width)) {
            for (unit, wide) in units.iter().zip(wide) {
                *wide = (((unit << shift) as i32 >> 24) as f32).to_bits();
            }
        }
    }
}
