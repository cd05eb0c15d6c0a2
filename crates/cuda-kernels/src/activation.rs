use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// An elementwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `x Φ(x)` with the exact normal distribution.
    Gelu,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x σ(x)`.
    Silu,
    /// `x`, where only the bias is to be added.
    Identity,
}

/// `f(xs + bias)` and its gradient, over `(rows, columns)`.
#[derive(Clone, Debug)]
pub struct BiasActivation {
    /// The input.
    pub xs: Pointer,
    /// `(columns)` in f32, or null.
    pub bias: Pointer,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// `f`.
    pub activation: ActivationKind,
}

const THREADS: u32 = 256;

impl BiasActivation {
    /// The kernel that computes `ys = f(xs + bias)`. `ys` may be `xs`.
    ///
    /// # Errors
    /// If the tensor has 2³¹ elements or more.
    pub fn forward(&self, element: Element, ys: Pointer) -> Result<Launch> {
        self.launch(element_kernels!("activation_forward"), element, Pointer::NULL, ys)
    }

    /// The kernel that computes `dxs = f'(xs + bias) ∘ dys`. `dxs` may be `dys` or `xs`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(&self, element: Element, dys: Pointer, dxs: Pointer) -> Result<Launch> {
        self.launch(element_kernels!("activation_backward"), element, dys, dxs)
    }

    fn launch(
        &self,
        names: [[&'static str; 2]; 2],
        element: Element,
        dys: Pointer,
        ys: Pointer,
    ) -> Result<Launch> {
        let count = size("activation", "elements", self.rows.saturating_mul(self.columns))?;
        let vectors = element.aligned(self.columns, &[self.xs, self.bias, dys, ys]);
        let threads = if vectors { count / element.vector() as u32 } else { count };
        let activation = match self.activation {
            ActivationKind::Gelu => 0,
            ActivationKind::QuickGelu => 1,
            ActivationKind::GeluTanh => 2,
            ActivationKind::Silu => 3,
            ActivationKind::Identity => 4,
        };
        let arguments = Arguments::default().pointers(&[self.xs, self.bias, dys, ys]).u32s(&[
            self.rows as u32,
            self.columns as u32,
            activation,
        ]);
        let function = pick(names, element, !vectors);
        Ok(Launch::new("activation", function, [threads.div_ceil(THREADS), 1, 1], THREADS, arguments))
    }
}
