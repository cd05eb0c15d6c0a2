use crate::{DropoutMask, Isa, MaskBits, Operand, PackedMatrix, Precision};

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

    /// Panics if it is not for a result of `rows` rows of `n` values, or for other instructions than `isa`.
    pub(crate) fn check(&self, isa: Isa, rows: usize, n: usize) {
        assert!(self.a.rows() == rows && self.b.n() == n && self.a.fits(self.b), "shapes of a product");
        assert!(self.b.isa() == isa, "instruction sets of a product");
        let masked = self.a_mask.is_some() || self.product_mask.is_some();
        assert!(!masked || self.b.precision() == Precision::F32, "a mask with a matrix that is not f32");
        assert!(self.product_mask.is_none_or(|mask| mask.covers(rows, n)), "mask of a product");
    }
}
