//! Products with the rows of a matrix that a list of slots selects: attention over a key-value cache.

use crate::dispatch::for_each_isa;
use crate::softmax::LANES;

/// Some columns of a matrix whose rows are selected by their slots.
#[derive(Clone, Copy, Debug)]
pub struct Gathered<'a> {
    values: &'a [f32],
    stride: usize,
    columns: usize,
}

impl<'a> Gathered<'a> {
    /// The first `columns` values of rows of `values`, which begin `stride` apart.
    pub fn new(values: &'a [f32], stride: usize, columns: usize) -> Self {
        Self { values, stride, columns }
    }

    #[inline(always)]
    fn row(self, slot: usize) -> &'a [f32] {
        &self.values[slot * self.stride..][..self.columns]
    }
}

for_each_isa! {
    /// `scores[i] = query · keys[slots[i]] / sqrt(columns)`.
    ///
    /// # Panics
    /// If there is no row in a slot.
    pub fn gathered_dots(isa: Isa, query: &[f32], keys: Gathered<'_>, slots: &[usize], scores: &mut [f32]) {
        let scale = 1.0 / (keys.columns as f32).sqrt();
        for (score, slot) in scores.iter_mut().zip(slots) {
            *score = scale * dot(query, keys.row(*slot));
        }
    }

    /// `sum += Σᵢ scores[i] * values[slots[i]]`.
    ///
    /// # Panics
    /// If there is no row in a slot.
    pub fn gathered_sum(isa: Isa, scores: &[f32], values: Gathered<'_>, slots: &[usize], sum: &mut [f32]) {
        for (score, slot) in scores.iter().zip(slots) {
            for (sum, value) in sum.iter_mut().zip(values.row(*slot)) {
                *sum += score * value;
            }
        }
    }
}

/// `Σ a b`, in lanes that compilers vectorise.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
