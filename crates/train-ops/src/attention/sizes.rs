use std::ops::Range;

use cpu_kernels::{LANES, Strided};

/// The sizes of an attention operation.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl Sizes {
    pub(super) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The distance from one row of scores to the next: a multiple of softmax's vector length.
    pub(super) fn stride(&self) -> usize {
        self.keys.next_multiple_of(LANES)
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Where head number `index`, counted over the batch, begins in a tensor of `(batch, tokens, heads * head_dim)`.
    pub(super) fn first(&self, tokens: usize, index: usize) -> usize {
        index / self.heads * tokens * self.width() + index % self.heads * self.head_dim
    }

    /// The rows `rows` of that head.
    pub(super) fn head<'a>(
        &self,
        values: &'a [f32],
        tokens: usize,
        index: usize,
        rows: Range<usize>,
    ) -> Strided<'a> {
        let first = self.first(tokens, index) + rows.start * self.width();
        Strided::new(&values[first..], rows.len(), self.width(), self.head_dim)
    }
}
