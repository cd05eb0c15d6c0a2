use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// A dropout mask as a function: the same mask, bit for bit, as `cpu_kernels::DropoutMask` with these keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// A u64 for each sample; null where nothing is dropped.
    pub keys: Pointer,
    /// Rows of a sample. Not read by [`Attention`](crate::Attention), whose rows are heads and queries.
    pub rows_per_sample: u32,
    /// The probability that an element is dropped, in `[0, 1)`.
    pub p: f32,
}

impl Mask {
    /// Nothing is dropped.
    pub const NONE: Self = Self { keys: Pointer::NULL, rows_per_sample: 1, p: 0.0 };

    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.p) * 2f64.powi(32)) as u32
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

/// `ys = mask ∘ xs`, both `(rows, columns)`: dropout forward, and backward on gradients. `xs` and `ys` may be the same memory.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// The input.
    pub xs: Pointer,
    /// The result.
    pub ys: Pointer,
    /// Rows of all samples.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// The mask.
    pub mask: Mask,
}

const THREADS: u32 = 256;

impl Dropout {
    /// The kernel.
    ///
    /// # Errors
    /// If the tensor has 2³¹ elements or more.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let count = size("dropout", "elements", self.rows.saturating_mul(self.columns))?;
        let vectors = element.aligned(self.columns, &[self.xs, self.ys]);
        let threads = if vectors { count / element.vector() as u32 } else { count };
        let arguments = Arguments::default()
            .pointers(&[self.xs, self.ys])
            .u32s(&[self.rows as u32, self.columns as u32])
            .mask(&self.mask);
        let function = pick(element_kernels!("dropout"), element, !vectors);
        Ok(Launch::new("dropout", function, [threads.div_ceil(THREADS), 1, 1], THREADS, arguments))
    }
}
