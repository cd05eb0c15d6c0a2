use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::Isa;
use crate::aligned::Aligned;
use crate::dispatch::for_each_isa;
use crate::isa::Kind;
use crate::words::{HIGH_HALF, pair, words};

/// How the elements of a packed matrix are stored. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// bf16, two neighbours in `k` together, as AVX512-BF16 reads them. The other factor of a product is rounded to bf16
    /// too, with every instruction set.
    Bf16,
    /// Integers from -127 to 127, four neighbours in `k` together, times a scale for each column. In
    /// [`product`](crate::product()) the other factor stays f32, and the caller multiplies the result's columns by the scales;
    /// in [`int8_product`](crate::int8_product) it is int8 too.
    Int8,
}

/// A `(k, n)` matrix in the order in which products read it: panels of [`Isa::panel_width`] columns, each row by row, the
/// last one padded with zeros.
#[derive(Clone)]
pub struct PackedMatrix {
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) data: Arc<Aligned>,
    /// The word of `data` at which the matrix begins.
    pub(crate) first: usize,
    /// One for each column of [`Precision::Int8`], else empty.
    pub(crate) scales: Vec<f32>,
    /// 128 times the sum of the integers of each column of [`Precision::Int8`], else empty.
    pub(crate) offsets: Vec<i32>,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {:?}, {})", self.k, self.n, self.precision, self.isa.name())
    }
}

impl PackedMatrix {
    /// Packs the matrix whose element in row `k` and column `n` is `element(k, n)`.
    pub fn new(
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
        let panel_stride = words(precision, k) * width;
        let mut data = Aligned::zeros(n.div_ceil(width) * panel_stride);
        let element = |row: usize, column: usize| if row < k { element(row, column) } else { 0.0 };
        data.par_chunks_mut(panel_stride.max(1)).enumerate().for_each(|(panel, data)| {
            // Column by column, because weights are stored by output, so that `element` reads neighbours along
            // `k`.
            for column in 0..width.min(n - panel * width) {
                let n = panel * width + column;
                for (word, row) in data.chunks_exact_mut(width).enumerate() {
                    row[column] = match precision {
                        Precision::Bf16 => pair(element(2 * word, n), element(2 * word + 1, n)),
                        _ => element(word, n).to_bits(),
                    };
                }
            }
        });
        Self::of_words(isa, precision, (k, n), data)
    }

    /// Packs `scale * b` in f32, for `b` `(k, n)` stored row by row.
    ///
    /// # Panics
    /// If `b` has another length, or no columns.
    pub fn from_rows(isa: Isa, k: usize, n: usize, b: &[f32], scale: f32) -> Self {
        assert!(b.len() == k * n, "length of a matrix");
        let width = isa.panel_width();
        let mut data = Aligned::zeros(n.div_ceil(width) * k * width);
        let panels = data.values_mut().chunks_exact_mut((k * width).max(1));
        for (panel, first) in panels.zip((0..n).step_by(width)) {
            let columns = width.min(n - first);
            for (to, row) in panel.chunks_exact_mut(width).zip(b.chunks_exact(n)) {
                scale_to(isa, &row[first..first + columns], scale, to);
            }
        }
        Self::of_words(isa, Precision::F32, (k, n), data)
    }

    /// Packs `scale * bᵀ` in f32, for `b` `(n, k)` stored row by row.
    ///
    /// # Panics
    /// If `b` has another length.
    pub fn from_columns(isa: Isa, k: usize, n: usize, b: &[f32], scale: f32) -> Self {
        assert!(b.len() == k * n, "length of a matrix");
        let width = isa.panel_width();
        let mut data = Aligned::zeros(n.div_ceil(width) * k * width);
        let panels = data.values_mut().chunks_exact_mut((k * width).max(1));
        for (panel, columns) in panels.zip(b.chunks(width * k.max(1))) {
            // A few rows of the panel at a time, which stay in cache until all of their columns are written.
            for (rows, begin) in panel.chunks_mut(ROWS_AT_A_TIME * width).zip((0..k).step_by(ROWS_AT_A_TIME))
            {
                for (column, values) in columns.chunks_exact(k).enumerate() {
                    for (to, value) in rows[column..].iter_mut().step_by(width).zip(&values[begin..]) {
                        *to = scale * value;
                    }
                }
            }
        }
        Self::of_words(isa, Precision::F32, (k, n), data)
    }

    pub(crate) fn of_words(isa: Isa, precision: Precision, (k, n): (usize, usize), data: Aligned) -> Self {
        Self { isa, precision, k, n, data: Arc::new(data), first: 0, scales: Vec::new(), offsets: Vec::new() }
    }

    /// A range of the columns as a separate matrix, which shares the memory of this one. `None` if the range
    /// does not begin and end at panels, or the matrix is int8.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn columns(&self, columns: Range<usize>) -> Option<Self> {
        assert!(columns.start < columns.end && columns.end <= self.n, "columns of a matrix");
        let width = self.isa.panel_width();
        let whole_panels = columns.start.is_multiple_of(width)
            && (columns.end.is_multiple_of(width) || columns.end == self.n);
        if !whole_panels || self.precision == Precision::Int8 {
            return None;
        }
        let first = self.first + columns.start / width * self.panel_stride();
        Some(Self { first, n: columns.len(), ..self.clone() })
    }

    /// The transpose, in the same precision; that of an int8 matrix is in f32, because its scales would belong to rows.
    pub fn transposed(&self) -> Self {
        let precision = match self.precision {
            Precision::Int8 => Precision::F32,
            other => other,
        };
        Self::new(self.isa, precision, self.n, self.k, |k, n| self.get(n, k))
    }

    /// The element in row `k` and column `n`.
    #[inline]
    pub fn get(&self, k: usize, n: usize) -> f32 {
        let width = self.isa.panel_width();
        let at = |word: usize| self.words()[(n / width) * self.panel_stride() + word * width + n % width];
        match self.precision {
            Precision::Int8 => f32::from(at(k / 4).to_le_bytes()[k % 4] as i8) * self.scales[n],
            Precision::F32 => f32::from_bits(at(k)),
            Precision::Bf16 => {
                f32::from_bits(if k.is_multiple_of(2) { at(k / 2) << 16 } else { at(k / 2) & HIGH_HALF })
            }
        }
    }

    /// The instruction set whose products read the matrix.
    #[inline]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How the elements are stored.
    #[inline]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Number of rows.
    #[inline]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns.
    #[inline]
    pub fn n(&self) -> usize {
        self.n
    }

    /// The factors that a product's columns must be multiplied by; empty unless the matrix is int8.
    #[inline]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Number of elements of a word that are widened to f32 before they are multiplied; 1 if words are
    /// multiplied without widening.
    pub(crate) fn widening(&self) -> usize {
        match self.precision {
            Precision::Int8 => 4,
            Precision::Bf16 if !self.isa.has_bf16() => 2,
            _ => 1,
        }
    }

    /// Whether blocks widen a panel to f32 in scratch memory, once for all rows, and not in registers for each
    /// tile. AVX2 widens bf16 in registers, because it has a vector unit for shifts that is free while the two
    /// others multiply. For NEON's instruction for bf16, the scratch memory has the panel interleaved instead
    /// of widened.
    pub(crate) fn is_widened_to_scratch(&self) -> bool {
        match (self.isa.kind(), self.precision) {
            (Kind::Avx2 { .. }, Precision::Bf16) => false,
            (Kind::Neon { bf16: true }, Precision::Bf16) => true,
            _ => self.widening() > 1,
        }
    }

    /// Whether its products are computed by AMX. Integer products choose their engine separately.
    pub(crate) fn is_for_tiles(&self) -> bool {
        self.precision == Precision::Bf16 && self.isa.has_tiles()
    }

    /// Rows of a tile of its products.
    pub(crate) fn tile_rows(&self) -> usize {
        match self.is_for_tiles() {
            #[cfg(target_arch = "x86_64")]
            true => crate::amx::SIDE,
            _ => self.isa.tile_rows(),
        }
    }

    /// Words from one panel to the next.
    pub(crate) fn panel_stride(&self) -> usize {
        words(self.precision, self.k) * self.isa.panel_width()
    }

    /// All panels.
    pub(crate) fn words(&self) -> &[u32] {
        &self.data[self.first..][..self.n.div_ceil(self.isa.panel_width()) * self.panel_stride()]
    }

    /// The panel that begins at column `panel * width`.
    pub(crate) fn panels_from(&self, panel: usize) -> &[u32] {
        &self.words()[panel * self.panel_stride()..]
    }
}

/// Rows of a panel that are filled at a time.
const ROWS_AT_A_TIME: usize = 64;

for_each_isa! {
    fn scale_to(isa: Isa, row: &[f32], scale: f32, to: &mut [f32]) {
        for (to, value) in to.iter_mut().zip(row) {
            *to = scale * value;
        }
    }
}
