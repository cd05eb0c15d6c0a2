use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::panels::{pair, units};
use super::{PackedMatrix, Precision};
use crate::buffer::Buffer;

/// Rows as the first factor of products, in the form that the second factor asks for: made once, however many matrices
/// they are multiplied by.
pub(crate) struct Operand<'a> {
    values: &'a [f32],
    k: usize,
    /// The rows in another form than `values` have; none where that is the form.
    converted: Option<Buffer>,
    form: Form,
    stride: usize,
}

/// What a matrix multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Values as they are, in rows of a multiple of so many.
    Plain(usize),
    /// Values rounded to bf16 and kept in f32, an even number of them.
    Rounded,
    /// Pairs of bf16.
    Pairs,
}

impl Form {
    fn of(b: &PackedMatrix) -> Self {
        match b.precision() {
            Precision::F32 => Self::Plain(1),
            Precision::Int8 => Self::Plain(4),
            Precision::Bf16 if b.isa().has_bf16() => Self::Pairs,
            Precision::Bf16 => Self::Rounded,
        }
    }
}

impl<'a> Operand<'a> {
    /// `values` `(rows, k)` as they are, for matrices in f32.
    pub(crate) fn plain(values: &'a [f32], k: usize) -> Self {
        Self { values, k, converted: None, form: Form::Plain(1), stride: k }
    }

    /// `values` `(rows, b.k())` for products with `b` and with matrices of its precision.
    pub(crate) fn new(values: &'a [f32], b: &PackedMatrix) -> Self {
        let (form, k) = (Form::of(b), b.k());
        let rows = values.len() / k.max(1);
        let stride = match form {
            Form::Plain(multiple) => k.next_multiple_of(multiple),
            Form::Rounded => k.next_multiple_of(2),
            Form::Pairs => units(Precision::Bf16, k),
        };
        // Rows a multiple of 4 KiB apart share the few places that the caches have for them.
        let stride = if stride.is_multiple_of(1024) && rows > FEW_ROWS { stride + APART } else { stride };
        if stride == k && matches!(form, Form::Plain(_)) {
            return Self::plain(values, k);
        }
        let mut converted = Buffer::new(rows * stride);
        converted
            .par_chunks_mut(stride.max(1))
            .zip(values.par_chunks(k.max(1)))
            .with_min_len(MIN_ROWS)
            .for_each(|(to, row)| match form {
                Form::Plain(_) => {
                    to[..k].copy_from_slice(row);
                    to[k..].fill(0.0);
                }
                Form::Rounded => round(row, to),
                Form::Pairs => pair_up(row, to),
            });
        Self { values, k, converted: Some(converted), form, stride }
    }

    /// Whether products with `b` take this form.
    pub(crate) fn fits(&self, b: &PackedMatrix) -> bool {
        let form = Form::of(b);
        let plain = match form {
            Form::Plain(multiple) => self.stride.is_multiple_of(multiple),
            _ => false,
        };
        self.k == b.k() && (self.form == form || matches!(self.form, Form::Plain(_)) && plain)
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.k.max(1)
    }

    /// The rows, as units of the second factor's kind.
    pub(super) fn data(&self) -> &[f32] {
        self.converted.as_deref().unwrap_or(self.values)
    }

    /// From one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// As many rows fit the caches wherever they lie.
const FEW_ROWS: usize = 8;
/// A line of the caches.
const APART: usize = 16;
/// Rows that are worth a task.
const MIN_ROWS: usize = 16;

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn pair_up(row: &[f32], units: &mut [f32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    let (of_pairs, others) = units.split_at_mut(pairs.len());
    for (unit, [first, second]) in of_pairs.iter_mut().zip(pairs) {
        *unit = f32::from_bits(pair(*first, *second));
    }
    others.fill(0.0);
    if let (Some(unit), [first]) = (others.first_mut(), rest) {
        *unit = f32::from_bits(pair(*first, 0.0));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn round(row: &[f32], to: &mut [f32]) {
    let (of_row, others) = to.split_at_mut(row.len());
    for (to, value) in of_row.iter_mut().zip(row) {
        *to = bf16::from_f32(*value).to_f32();
    }
    others.fill(0.0);
}
