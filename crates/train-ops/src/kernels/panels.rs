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
                        Precision::F32 => element(unit, n).to_bits(),
                        Precision::Bf16 => pair(element(2 * unit, n), element(2 * unit + 1, n)),
                    };
                }
            }
        });
        Self { isa, precision, k, n, data }
    }

    /// The transpose, packed the same way.
    pub(crate) fn transposed(&self) -> Self {
        Self::new(self.isa, self.precision, self.n, self.k, |k, n| self.get(n, k))
    }

    /// The element in row `k` and column `n`.
    pub(crate) fn get(&self, k: usize, n: usize) -> f32 {
        let width = self.isa.panel_width();
        let at = |unit: usize| self.data[(n / width) * self.panel_stride() + unit * width + n % width];
        match self.precision {
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

    /// Units from one panel to the next.
    pub(super) fn panel_stride(&self) -> usize {
        units(self.precision, self.k) * self.isa.panel_width()
    }

    /// The panel that begins at column `panel * width`.
    pub(super) fn panels_from(&self, panel: usize) -> &[u32] {
        &self.data[panel * self.panel_stride()..]
    }
}

const HIGH: u32 = 0xffff_0000;

/// Units along `k`.
pub(super) fn units(precision: Precision, k: usize) -> usize {
    match precision {
        Precision::F32 => k,
        Precision::Bf16 => k.div_ceil(2),
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
