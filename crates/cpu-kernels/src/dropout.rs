//! Dropout masks as functions: a hash of an element's place decides whether it is dropped, and is computed
//! where it is needed.

use rayon::prelude::*;

use crate::dispatch::for_each_isa;
use crate::{Isa, mix};

/// The dropout mask of one matrix: a function from element to 0 or `1 / (1 - p)`.
///
/// The rows are divided evenly among samples. A hash of the sample's key, the row in the sample and the column
/// decides whether an element is dropped, so a mask does not depend on how samples are batched, on padding, or
/// on the number of threads.
#[derive(Clone, Debug)]
pub struct DropoutMask {
    isa: Isa,
    /// One for each sample.
    keys: Vec<u64>,
    origin: Option<Origin>,
    rows_per_sample: usize,
    columns: usize,
    p: f32,
    threshold: u32,
    scale: f32,
}

/// The arguments from which the keys were computed.
#[derive(Clone, Debug)]
struct Origin {
    samples: Vec<u64>,
    place: u64,
}

impl DropoutMask {
    /// The mask of `keys.len() * rows_per_sample` rows of `columns` elements, each of which is dropped with probability `p`
    /// in `[0, 1)`.
    pub fn new(isa: Isa, keys: Vec<u64>, rows_per_sample: usize, columns: usize, p: f32) -> Self {
        let threshold = (f64::from(p) * 2f64.powi(32)) as u32;
        Self { isa, keys, origin: None, rows_per_sample, columns, p, threshold, scale: 1.0 / (1.0 - p) }
    }

    /// The mask at one of several places of a model that use the same samples: with the keys [`place_keys`](Self::place_keys).
    pub fn at_place(
        isa: Isa,
        samples: &[u64],
        place: u64,
        rows_per_sample: usize,
        columns: usize,
        p: f32,
    ) -> Self {
        let keys = Self::place_keys(samples, place).collect();
        let origin = Some(Origin { samples: samples.to_vec(), place });
        Self { origin, ..Self::new(isa, keys, rows_per_sample, columns, p) }
    }

    /// The keys of [`at_place`](Self::at_place), one for each sample: `mix(sample ^ place)`.
    pub fn place_keys(samples: &[u64], place: u64) -> impl Iterator<Item = u64> {
        samples.iter().map(move |sample| mix(sample ^ place))
    }

    /// The samples and the place of [`at_place`](Self::at_place); `None` for a mask of [`new`](Self::new).
    pub fn origin(&self) -> Option<(&[u64], u64)> {
        self.origin.as_ref().map(|origin| (&origin.samples[..], origin.place))
    }

    /// Multiplies `values`, all rows of the matrix or the first of them, by the mask.
    pub fn apply(&self, values: &mut [f32]) {
        let columns = self.columns.max(1);
        values.par_chunks_mut(columns).enumerate().for_each(|(row, values)| self.apply_part(row, 0, values));
    }

    /// Multiplies a part of a row by the mask; `values` begin at column `first`. The row is counted over all
    /// samples. The mask depends on the row's index in its sample and not on its length, so a longer row begins
    /// like a shorter one.
    #[inline]
    pub fn apply_part(&self, row: usize, first: usize, values: &mut [f32]) {
        apply_key(self.isa, self.key(row), first as u32, self.threshold, self.scale, values);
    }

    /// The mask of the first `rows` rows as bits, for a computation that reads it more than once.
    pub fn bits(&self, rows: usize) -> MaskBits {
        let stride = self.columns.next_multiple_of(PADDED_COLUMNS) / BITS;
        let mut bits = vec![0; rows * stride];
        bits.par_chunks_mut(TASK_ROWS * stride.max(1)).enumerate().for_each(|(chunk, bits)| {
            for (index, bits) in bits.chunks_exact_mut(stride).enumerate() {
                kept_bits(self.isa, self.key(chunk * TASK_ROWS + index), self.threshold, bits);
            }
        });
        MaskBits { bits, stride }
    }

    /// One key for each sample, for kernels elsewhere that compute the same mask.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Rows of each sample.
    pub fn rows_per_sample(&self) -> usize {
        self.rows_per_sample
    }

    /// The probability that an element is dropped.
    pub fn p(&self) -> f32 {
        self.p
    }

    /// `1 / (1 - p)`, the factor of an element that is kept.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The mask of the first `count` elements as factors, for devices that take it as a tensor.
    pub fn factors(&self, count: usize) -> Vec<f32> {
        let mut factors = vec![1.0; count];
        self.apply(&mut factors);
        factors
    }

    /// The key of a row, counted over all samples.
    #[inline]
    fn key(&self, row: usize) -> u64 {
        mix(self.keys[row / self.rows_per_sample] ^ (row % self.rows_per_sample) as u64)
    }
}

/// Which elements of a matrix a mask keeps, a bit for each.
#[derive(Debug)]
pub struct MaskBits {
    bits: Vec<u8>,
    /// Bytes of a row.
    stride: usize,
}

/// Elements of a byte.
const BITS: usize = 8;
/// Every row has bits for a multiple of this many columns, the width of the widest panel of a product.
const PADDED_COLUMNS: usize = 32;
/// Rows whose bits a task makes.
const TASK_ROWS: usize = 16;

impl MaskBits {
    /// Whether there are bits for this many rows and columns.
    pub(crate) fn covers(&self, rows: usize, columns: usize) -> bool {
        self.stride * BITS >= columns && self.bits.len() >= rows * self.stride
    }

    /// The bits from a row and a column on, a multiple of 8, and the bytes from one row to the next. The first column is in
    /// the lowest bit.
    pub(crate) fn from(&self, row: usize, first: usize) -> (&[u8], usize) {
        (&self.bits[row * self.stride + first / BITS..], self.stride)
    }
}

for_each_isa! {
    /// Multiplies the columns of a row, from `first` on, by its mask.
    fn apply_key(isa: Isa, key: u64, first: u32, threshold: u32, scale: f32, values: &mut [f32]) {
        let (low, high) = (key as u32, (key >> 32) as u32);
        for (column, value) in (first..).zip(values) {
            *value *= if hash(low, high, column) < threshold { 0.0 } else { scale };
        }
    }

    /// The bits of the columns of a row that its mask keeps.
    fn kept_bits(isa: Isa, key: u64, threshold: u32, bits: &mut [u8]) {
        let (low, high) = (key as u32, (key >> 32) as u32);
        for (byte, bits) in (0..).zip(bits) {
            let mut kept = 0u32;
            for bit in 0..BITS as u32 {
                let dropped = hash(low, high, BITS as u32 * byte + bit) < threshold;
                kept |= if dropped { 0 } else { 1 << bit };
            }
            *bits = kept as u8;
        }
    }
}

/// 32 random bits for a column of a row. Two multiply and xor-shift rounds in 32 bits, which compilers vectorise; the
/// second half of the key enters between them, so that no two rows are shifted copies of one another.
#[inline(always)]
fn hash(low: u32, high: u32, column: u32) -> u32 {
    let mut h = column.wrapping_mul(0x9e37_79b1).wrapping_add(low);
    h = (h ^ (h >> 16)).wrapping_mul(0x21f0_aaad) ^ high;
    h = (h ^ (h >> 15)).wrapping_mul(0x735a_2d97);
    h ^ (h >> 15)
}
