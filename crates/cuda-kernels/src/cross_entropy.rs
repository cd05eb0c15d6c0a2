use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Error, Launch, Pointer, Result};

/// Cross entropy of rows of logits `z`, to which a bias may be added first, `log Σⱼ exp(zⱼ) - (1 - ε) z[target] - ε/V Σⱼ zⱼ` with
/// label smoothing `ε`, and its gradient in place of the logits.
///
/// It is called for a few rows at a time, so that the logits of all rows never exist at once.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `(rows, stride)`. If a gradient is wanted, replaced by it: 0 in columns that are not of the vocabulary.
    pub logits: Pointer,
    /// An f32 for each logit of a row, to be added to it, or [`Pointer::NULL`].
    pub bias: Pointer,
    /// A u32 for each row, below the vocabulary, or [`NO_TARGET`](Self::NO_TARGET).
    pub targets: Pointer,
    /// An f32 for each row.
    pub losses: Pointer,
    /// Number of rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocabulary: usize,
    /// Elements from one row to the next. A multiple of 16 bytes lets the kernel read 16 bytes at a time.
    pub stride: usize,
    /// `ε`, in `[0, 1)`.
    pub label_smoothing: f32,
    /// Whether the gradient is wanted.
    pub gradient: bool,
}

const THREADS: u32 = 512;

impl CrossEntropy {
    /// The target of a row without one: its loss and its gradient are 0. Such rows fill a batch up to a size for which a CUDA graph
    /// exists.
    pub const NO_TARGET: u32 = u32::MAX;

    /// The kernel.
    ///
    /// # Errors
    /// If the vocabulary is empty or larger than the stride.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let kernel = "cross_entropy";
        if self.vocabulary == 0 || self.vocabulary > self.stride {
            return Err(Error::Mismatch {
                kernel,
                expected: format!("a vocabulary of 1 to {} logits, the stride of rows", self.stride),
                got: self.vocabulary.to_string(),
            });
        }
        let arguments = Arguments::default()
            .pointers(&[self.logits, self.bias, self.targets, self.losses])
            .u32s(&[self.vocabulary as u32, size(kernel, "logits of a row", self.stride)?])
            .f32(self.label_smoothing)
            .u32(u32::from(self.gradient));
        let vectors = element.aligned(self.stride, &[self.logits]);
        let function = pick(element_kernels!("cross_entropy"), element, !vectors);
        let grid = [size(kernel, "rows", self.rows)?, 1, 1];
        Ok(Launch::new("cross_entropy", function, grid, THREADS, arguments))
    }
}

/// The sum of losses, computed in f64.
#[derive(Clone, Debug)]
pub struct LossSum {
    /// `count` f32.
    pub losses: Pointer,
    /// One f32.
    pub sum: Pointer,
    /// Number of losses.
    pub count: usize,
}

impl LossSum {
    /// The kernel.
    ///
    /// # Errors
    /// If there are 2³¹ losses or more.
    pub fn launch(&self) -> Result<Launch> {
        let count = size("loss_sum", "losses", self.count)?;
        let arguments = Arguments::default().pointers(&[self.losses, self.sum]).u32(count);
        Ok(Launch::new("cross_entropy", "loss_sum", [1, 1, 1], THREADS, arguments))
    }
}
