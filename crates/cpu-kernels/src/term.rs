use crate::{DropoutMask, MaskBits, Operand, PackedMatrix};

/// How the sums of a product are initialised.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a> {
    /// With zero.
    Zero,
    /// With a bias: the same row for every row of the result.
    Bias(&'a [f32]),
    /// With the values of the result: the product is added to them.
    Accumulate,
}

/// One of the products that are summed: `a b`, with dropout masks where they are given.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// `(rows, k)`.
    pub a: &'a Operand<'a>,
    /// `(k, n)`.
    pub b: &'a PackedMatrix,
    /// A mask of `a`, for a `b` in f32.
    pub a_mask: Option<&'a DropoutMask>,
    /// A mask of `a b`, for a `b` in f32, without its scale.
    pub product_mask: Option<&'a MaskBits>,
}

impl<'a> Term<'a> {
    /// `a b`.
    pub fn new(a: &'a Operand<'a>, b: &'a PackedMatrix) -> Self {
        Self { a, b, a_mask: None, product_mask: None }
    }
}
