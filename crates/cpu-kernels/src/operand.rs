use half::bf16;
use rayon::prelude::*;

use crate::dispatch::for_each_isa;
use crate::words::{pair, words};
use crate::{Buffer, PackedMatrix, Precision, Rows, leading_dimension};

/// Rows as the first factor of products, converted to the format that the second factor needs, once for all
/// matrices of that format.
#[derive(Debug)]
pub struct Operand<'a> {
    rows: Rows<'a>,
    /// The converted rows; `None` if they are used without a conversion.
    converted: Option<Buffer>,
    form: Form,
    stride: usize,
}

/// The format of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// f32, in rows whose length is a multiple of this.
    Plain(usize),
    /// Rounded to bf16 and stored in f32, an even number of them.
    Rounded,
    /// Pairs of bf16.
    Pairs,
    /// Pairs of bf16 in whole tiles of AMX: rows of a multiple of [`TILE_WORDS`] words, and a multiple of a
    /// tile's rows; the rows beyond the last one may have any content.
    Tiles,
}

impl Form {
    fn of(b: &PackedMatrix) -> Self {
        match b.precision() {
            Precision::F32 => Self::Plain(1),
            Precision::Int8 => Self::Plain(4),
            Precision::Bf16 if b.is_for_tiles() => Self::Tiles,
            Precision::Bf16 if b.isa().has_bf16() => Self::Pairs,
            Precision::Bf16 => Self::Rounded,
        }
    }
}

impl<'a> Operand<'a> {
    /// `rows` without a conversion, for f32 matrices.
    pub fn plain(rows: Rows<'a>) -> Self {
        Self { rows, converted: None, form: Form::Plain(1), stride: rows.stride() }
    }

    /// `rows`, of `b.k()` values, for products with `b` and with other matrices of its precision.
    pub fn new(rows: Rows<'a>, b: &PackedMatrix) -> Self {
        let (form, k, count) = (Form::of(b), rows.width(), rows.count());
        let words = match form {
            Form::Plain(multiple) => k.next_multiple_of(multiple),
            Form::Rounded => k.next_multiple_of(2),
            Form::Pairs => words(Precision::Bf16, k),
            Form::Tiles => words(Precision::Bf16, k).next_multiple_of(TILE_WORDS),
        };
        let small = count <= SMALL;
        if matches!(form, Form::Plain(_)) && words == k && (small || rows.stride() == leading_dimension(k)) {
            return Self::plain(rows);
        }
        let stride = if small { words } else { leading_dimension(words) };
        let all = if form == Form::Tiles { count.next_multiple_of(b.tile_rows()) } else { count };
        let mut converted = Buffer::new(all * stride);
        converted.par_chunks_mut(stride.max(1)).zip(rows.par_iter()).with_min_len(MIN_ROWS).for_each(
            |(to, row)| match form {
                Form::Plain(_) => {
                    to[..k].copy_from_slice(row);
                    to[k..].fill(0.0);
                }
                Form::Rounded => round(b.isa(), row, to),
                Form::Pairs | Form::Tiles => pair_up(b.isa(), row, to),
            },
        );
        Self { rows, converted: Some(converted), form, stride }
    }

    /// Whether the rows have the format and the length for products with `b`.
    pub fn fits(&self, b: &PackedMatrix) -> bool {
        let form = Form::of(b);
        let plain = match form {
            Form::Plain(multiple) => self.stride.is_multiple_of(multiple),
            _ => false,
        };
        self.rows.width() == b.k() && (self.form == form || matches!(self.form, Form::Plain(_)) && plain)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows.count()
    }

    /// The rows, as words of the second factor's precision.
    pub(crate) fn data(&self) -> &[f32] {
        self.converted.as_deref().unwrap_or(self.rows.values())
    }

    /// From one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

/// This many rows stay in the caches whatever their distance.
const SMALL: usize = 8;
/// Words of a row of AMX's tiles.
const TILE_WORDS: usize = 16;
/// The fewest rows of a task.
const MIN_ROWS: usize = 16;

for_each_isa! {
    /// Neighbours rounded to bf16 and packed in pairs.
    fn pair_up(isa: Isa, row: &[f32], words: &mut [f32]) {
        let (pairs, rest) = row.as_chunks::<2>();
        let (of_pairs, others) = words.split_at_mut(pairs.len());
        for (word, [first, second]) in of_pairs.iter_mut().zip(pairs) {
            *word = f32::from_bits(pair(*first, *second));
        }
        others.fill(0.0);
        if let (Some(word), [first]) = (others.first_mut(), rest) {
            *word = f32::from_bits(pair(*first, 0.0));
        }
    }

    /// Values rounded to bf16, in f32.
    fn round(isa: Isa, row: &[f32], to: &mut [f32]) {
        let (of_row, others) = to.split_at_mut(row.len());
        for (to, value) in of_row.iter_mut().zip(row) {
            *to = bf16::from_f32(*value).to_f32();
        }
        others.fill(0.0);
    }
}
