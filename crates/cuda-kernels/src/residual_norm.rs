use crate::launch::{Arguments, at_most, element_kernels, pick, size};
use crate::{Element, Error, Launch, Mask, Pointer, Result};

/// Residual + dropout + layer norm over rows of `features` elements, with a frozen weight and bias:
///
/// ```text
/// sums = residual + mask ∘ xs        ys = (sums - mean(sums)) / sqrt(var(sums) + eps) ∘ weight + bias
/// ```
#[derive(Clone, Debug)]
pub struct ResidualNorm {
    /// `(rows, features)`.
    pub xs: Pointer,
    /// `(rows, features)`; null for a norm without a residual.
    pub residual: Pointer,
    /// `(features)`, in f32.
    pub weight: Pointer,
    /// `(features)`, in f32.
    pub bias: Pointer,
    /// `(rows, features)`, for the backward pass; null if it is not wanted.
    pub sums: Pointer,
    /// The result, `(rows, features)`.
    pub ys: Pointer,
    /// Two f32 for each row, for the backward pass.
    pub statistics: Pointer,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub features: usize,
    /// Added to the variance.
    pub eps: f32,
    /// The mask of `xs`.
    pub mask: Mask,
}

/// The gradients of [`ResidualNorm`].
#[derive(Clone, Debug)]
pub struct ResidualNormGradient {
    /// As the forward pass wrote them (`xs` where there was neither a residual nor dropout).
    pub sums: Pointer,
    /// As the forward pass wrote them.
    pub statistics: Pointer,
    /// `(features)`, in f32.
    pub weight: Pointer,
    /// The gradient of `ys`.
    pub dys: Pointer,
    /// A gradient of `sums` from elsewhere, which is added; null if there is none.
    pub dsums_direct: Pointer,
    /// The gradient of `sums` and of `residual`, `(rows, features)`.
    pub dsums: Pointer,
    /// The gradient of `xs`; null if it is not wanted, as where nothing is dropped and it is `dsums`.
    pub dxs: Pointer,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub features: usize,
    /// The mask of `xs`.
    pub mask: Mask,
}

const THREADS: usize = 256;
/// Elements of a row in the registers of a thread.
const MOST: usize = 16;

fn check(kernel: &'static str, rows: usize, features: usize) -> Result<u32> {
    if features == 0 {
        return Err(Error::Mismatch { kernel, expected: "features".to_owned(), got: "none".to_owned() });
    }
    at_most(kernel, "features", features, THREADS * MOST)?;
    size(kernel, "rows", rows)
}

impl ResidualNorm {
    /// The kernel.
    ///
    /// # Errors
    /// If there are no features, or more than 4096.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let rows = check("residual_norm_forward", self.rows, self.features)?;
        let pointers = [self.xs, self.residual, self.weight, self.bias, self.sums, self.ys];
        let arguments = Arguments::default()
            .pointers(&pointers)
            .pointer(self.statistics)
            .u32(self.features as u32)
            .f32(self.eps)
            .mask(&self.mask);
        let vectors = element.aligned(self.features, &pointers);
        let function = pick(element_kernels!("residual_norm_forward"), element, !vectors);
        Ok(Launch::new("residual_norm", function, [rows, 1, 1], THREADS as u32, arguments))
    }
}

impl ResidualNormGradient {
    /// The kernel.
    ///
    /// # Errors
    /// As [`ResidualNorm::launch`].
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let rows = check("residual_norm_backward", self.rows, self.features)?;
        let arguments = Arguments::default()
            .pointers(&[self.sums, self.statistics, self.weight, self.dys, self.dsums_direct])
            .pointers(&[self.dsums, self.dxs])
            .u32(self.features as u32)
            .mask(&self.mask);
        let pointers = [self.sums, self.weight, self.dys, self.dsums_direct, self.dsums, self.dxs];
        let vectors = element.aligned(self.features, &pointers);
        let function = pick(element_kernels!("residual_norm_backward"), element, !vectors);
        Ok(Launch::new("residual_norm", function, [rows, 1, 1], THREADS as u32, arguments))
    }
}
