use std::ops::Range;

use rayon::prelude::*;

use super::bounded::{Excess, bound_pairs};
use super::{Engine, Form, MAX_INT8_ROW};
use crate::dispatch::for_each_isa;
use crate::quantise::{LARGEST, ROUNDER};
use crate::softmax::LANES;
use crate::{Buffer, Isa, PackedMatrix, Precision, Rows};

/// Rows in 8 bits, each with a scale, as the first factor of [`int8_product`](crate::int8_product).
///
/// The scale of a row is its largest magnitude / 127. Numbers larger than six times the row's root mean square
/// are *outliers*: they stay f32, and the scale is that of the other numbers. Without this, one large number
/// would reduce the precision of all others. At most one number in 36 is an outlier.
#[derive(Debug)]
pub struct QuantisedRows {
    /// The integers, in the form of the engine.
    integers: Buffer,
    pub(super) engine: Engine,
    isa: Isa,
    count: usize,
    k: usize,
    /// Words from one row to the next.
    stride: usize,
    rows: Vec<Row>,
}

/// The data of a row besides its integers.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// The factor of the integers. NaN if a number of the row is not finite: then all of its results are NaN.
    pub(super) scale: f32,
    /// Place and value of the outliers, in the order of their places.
    pub(super) outliers: Vec<(usize, f32)>,
    /// 128 times the sum of the integers, which [`Form::Bounded`] adds to every sum of the row: 128 is added to each byte of the matrix.
    pub(super) offset: i32,
    /// Integers beyond the bound of [`Form::Bounded`].
    pub(super) excess: Vec<Excess>,
}

impl QuantisedRows {
    /// Quantises `rows`, of `b.k()` numbers, for products with `b` and other int8 matrices of as many rows. If
    /// there are `factors`, each number is first multiplied by the factor of its column.
    ///
    /// # Panics
    /// If `b` is not int8, if lengths do not agree, or if rows have more than [`MAX_INT8_ROW`] numbers.
    pub fn new(rows: Rows<'_>, factors: Option<&[f32]>, b: &PackedMatrix) -> Self {
        assert!(b.precision() == Precision::Int8 && rows.width() == b.k(), "rows for an int8 matrix");
        Self::for_engine(b.isa(), Engine::of(b.isa(), rows.count()), rows, factors)
    }

    pub(super) fn for_engine(isa: Isa, engine: Engine, rows: Rows<'_>, factors: Option<&[f32]>) -> Self {
        let (count, k, form) = (rows.count(), rows.width(), engine.form());
        assert!(k <= MAX_INT8_ROW, "length of a row of int8");
        assert!(factors.is_none_or(|factors| factors.len() == k), "factors of the columns");
        // Rows are whole cache lines, but not a multiple of 4 KiB apart, because they would compete for the
        // same lines.
        let mut stride = k.div_ceil(4).next_multiple_of(LINE).max(LINE);
        if stride.is_multiple_of(PAGE) {
            stride += LINE;
        }
        let offset = if form == Form::Unsigned { 128 } else { 0 };
        // Tiles also read rows beyond the last one; their results are not used.
        let mut integers = Buffer::new(count.next_multiple_of(engine.tile_rows(isa)) * stride);
        let mut all = vec![Row::default(); count];
        let targets = integers.par_chunks_mut(stride).zip(all.par_iter_mut());
        targets.zip(rows.par_iter()).with_min_len(MIN_ROWS).for_each_init(
            || vec![0.0; k],
            |scratch, ((to, row), values)| {
                let factor;
                (*row, factor) = scale(isa, values, factors, scratch);
                store_bytes(isa, scratch, factor, offset, bytes(to));
                if form == Form::Bounded {
                    (row.offset, row.excess) = bound_pairs(isa, bytes(to));
                }
            },
        );
        Self { integers, engine, isa, count, k, stride, rows: all }
    }

    /// Whether the rows fit products with `b`.
    pub fn fits(&self, b: &PackedMatrix) -> bool {
        b.precision() == Precision::Int8 && b.k() == self.k && b.isa() == self.isa
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The integers from row `row` on.
    pub(super) fn integers_from(&self, row: usize) -> *const u32 {
        self.integers[row * self.stride..].as_ptr().cast()
    }

    pub(super) fn rows(&self, rows: Range<usize>) -> &[Row] {
        &self.rows[rows]
    }
}

/// Words in a cache line, and in a page.
const LINE: usize = 16;
const PAGE: usize = 1024;
/// The fewest rows of a task.
const MIN_ROWS: usize = 4;
/// Numbers beyond this many times the root mean square are outliers.
const OUTLIER: f32 = 6.0;
/// A row with only smaller numbers is quantised to zeros, because `127 / largest` would overflow.
const TINY: f32 = 1e-36;

/// Words as bytes.
fn bytes(words: &mut [f32]) -> &mut [u8] {
    // SAFETY: f32 has no padding, any bits are valid for both types, and the alignment is less.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 4 * words.len())
    }
}

/// Moves magnitudes beyond `limit` to `outliers`; the first value has the place `first`.
fn move_outliers(values: &mut [f32], first: usize, limit: f32, outliers: &mut Vec<(usize, f32)>) {
    for (place, value) in values.iter_mut().enumerate().filter(|(_, value)| value.abs() > limit) {
        outliers.push((first + place, std::mem::take(value)));
    }
}

/// Writes the numbers of a row without its outliers to `to`. Returns the row and the factor by which the numbers become integers.
fn scale(isa: Isa, values: &[f32], factors: Option<&[f32]>, to: &mut [f32]) -> (Row, f32) {
    let largest = copy_scaled(isa, values, factors, to);
    if !largest.is_finite() {
        to.fill(0.0);
        return (Row { scale: f32::NAN, ..Row::default() }, 0.0);
    }
    if largest < TINY {
        return (Row::default(), 0.0);
    }
    // Relative to the largest, so that no square overflows or underflows.
    let mean_square = sum_of_squares(isa, to, 1.0 / largest) / to.len() as f32;
    let limit = largest * OUTLIER * mean_square.sqrt();
    let (mut rest, mut outliers) = (largest, Vec::new());
    if largest > limit {
        rest = take_outliers(isa, to, limit, &mut outliers);
    }
    let (scale, factor) = if rest < TINY { (0.0, 0.0) } else { (rest / LARGEST, LARGEST / rest) };
    (Row { scale, outliers, ..Row::default() }, factor)
}

for_each_isa! {
    /// `to = factors * values`; returns the largest magnitude, or infinity if a number is NaN.
    fn copy_scaled(isa: Isa, values: &[f32], factors: Option<&[f32]>, to: &mut [f32]) -> f32 {
        match factors {
            None => to.copy_from_slice(values),
            Some(factors) => {
                for ((to, value), factor) in to.iter_mut().zip(values).zip(factors) {
                    *to = value * factor;
                }
            }
        }
        // As integers, magnitudes have the order of the numbers, and NaNs are the largest.
        let mut largest = 0;
        for value in to.iter() {
            largest = (value.to_bits() & 0x7fff_ffff).max(largest);
        }
        f32::from_bits(largest.min(f32::INFINITY.to_bits()))
    }

    /// `Σ (factor * value)²`, in an order that does not depend on the instruction set.
    fn sum_of_squares(isa: Isa, values: &[f32], factor: f32) -> f32 {
        let mut sums = [0.0; LANES];
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += (factor * value) * (factor * value);
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *sum += (factor * value) * (factor * value);
        }
        sums.iter().sum()
    }

    /// Replaces magnitudes beyond `limit` by zero and moves them to `outliers`; returns the largest of the others.
    fn take_outliers(isa: Isa, values: &mut [f32], limit: f32, outliers: &mut Vec<(usize, f32)>) -> f32 {
        let mut largest = [0.0f32; LANES];
        let (chunks, rest) = values.as_chunks_mut::<LANES>();
        let first_of_rest = LANES * chunks.len();
        for (index, chunk) in chunks.iter_mut().enumerate() {
            let mut beyond = false;
            for value in chunk.iter() {
                beyond |= value.abs() > limit;
            }
            if beyond {
                move_outliers(chunk, LANES * index, limit, outliers);
            }
            for (largest, value) in largest.iter_mut().zip(chunk) {
                *largest = if value.abs() > *largest { value.abs() } else { *largest };
            }
        }
        move_outliers(rest, first_of_rest, limit, outliers);
        largest.iter().chain(rest.iter()).fold(0.0, |largest, value| value.abs().max(largest))
    }

    /// The integers nearest to `factor * values` as bytes, plus `offset`.
    fn store_bytes(isa: Isa, values: &[f32], factor: f32, offset: u8, to: &mut [u8]) {
        let (of_values, rest) = to.split_at_mut(values.len());
        for (to, value) in of_values.iter_mut().zip(values) {
            *to = ((value * factor + ROUNDER).to_bits() as u8).wrapping_add(offset);
        }
        rest.fill(offset);
    }
}
