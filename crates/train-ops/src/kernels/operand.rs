use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::panels::{pair, units};
use super::rows::apart;
use super::{PackedMatrix, Precision, Rows};
use crate::buffer::Buffer;

/// Rows as the first factor of products, in the form that the second factor asks for: made once, however many matrices
/// they are multiplied by.
pub(crate) struct Operand<'a> {
    rows: Rows<'a>,
    /// The rows in another form than they are given; none where that is the form.
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
    /// `rows` as they are, for matrices in f32.
    pub(crate) fn plain(rows: Rows<'a>) -> Self {
        Self { rows, converted: None, form: Form::Plain(1), stride: rows.stride() }
    }

    /// `rows` `(rows, b.k())` for products with `b` and with matrices of its precision.
    pub(crate) fn new(rows: Rows<'a>, b: &PackedMatrix) -> Self {
        let (form, k, count) = (Form::of(b), rows.width(), rows.count());
        let units = match form {
            Form::Plain(multiple) => k.next_multiple_of(multiple),
            Form::Rounded => k.next_multiple_of(2),
            Form::Pairs => units(Precision::Bf16, k),
        };
        let few = count <= FEW_ROWS;
        if matches!(form, Form::Plain(_)) && units == k && (few || rows.stride() == apart(k)) {
            return Self::plain(rows);
        }
        let stride = if few { units } else { apart(units) };
        let mut converted = Buffer::new(count * stride);
        converted.par_chunks_mut(stride.max(1)).zip(rows.par_iter()).with_min_len(MIN_ROWS).for_each(
            |(to, row)| match form {
                Form::Plain(_) => {
                    to[..k].copy_from_slice(row);
                    to[k..].fill(0.0);
                }
                Form::Rounded => round(row, to),
                Form::Pairs => pair_up(row, to),
            },
        );
        Self { rows, converted: Some(converted), form, stride }
    }

    /// Whether products with `b` take this form.
    pub(crate) fn fits(&self, b: &PackedMatrix) -> bool {
        let form = Form::of(b);
        let plain = match form {
            Form::Plain(multiple) => self.stride.is_multiple_of(multiple),
            _ => false,
        };
        self.rows.width() == b.k() && (self.form == form || matches!(self.form, Form::Plain(_)) && plain)
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows.count()
    }

    /// The rows, as units of the second factor's kind.
    pub(super) fn data(&self) -> &[f32] {
        self.converted.as_deref().unwrap_or(self.rows.values())
    }

    /// From one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// As many rows fit the caches wherever they lie.
const FEW_ROWS: usize = 8;
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
