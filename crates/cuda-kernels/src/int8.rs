use crate::launch::{Arguments, GRID, at_most, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// A frozen linear layer in int8, `W[n][k] = scales[n] q[n][k]`, and its products.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    /// `q`, `(out_features, in_features)` i8.
    pub weight: Pointer,
    /// `(out_features)` in f32.
    pub scales: Pointer,
    /// `(out_features)` of the type of activations, or null.
    pub bias: Pointer,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
}

const THREADS: u32 = 128;
const TILE: usize = 64;

impl Int8Linear {
    /// The kernel that computes `ys = xs Wᵀ + bias` for `rows` rows.
    ///
    /// # Errors
    /// If a size is beyond the limits of a grid.
    pub fn forward(&self, element: Element, xs: Pointer, ys: Pointer, rows: usize) -> Result<Launch> {
        let name = pick([["int8_forward_f32"; 2], ["int8_forward_bf16"; 2]], element, false);
        self.launch(name, element, [xs, ys], rows, [self.in_features, self.out_features])
    }

    /// The kernel that computes `dxs = dys W` for `rows` rows.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(&self, element: Element, dys: Pointer, dxs: Pointer, rows: usize) -> Result<Launch> {
        let name = pick([["int8_backward_f32"; 2], ["int8_backward_bf16"; 2]], element, false);
        self.launch(name, element, [dys, dxs], rows, [self.out_features, self.in_features])
    }

    fn launch(
        &self,
        function: &'static str,
        element: Element,
        [xs, ys]: [Pointer; 2],
        rows: usize,
        [terms, columns]: [usize; 2],
    ) -> Result<Launch> {
        let module = "int8_product";
        let sizes = [
            size(module, "in_features", self.in_features)?,
            size(module, "out_features", self.out_features)?,
        ];
        let weight_aligned = self.in_features.is_multiple_of(16) && self.weight.0.is_multiple_of(16);
        let arguments = Arguments::default()
            .pointers(&[xs, self.weight, self.scales, self.bias, ys])
            .u32s(&[size(module, "rows", rows)?, sizes[0], sizes[1]])
            .u32s(&[
                u32::from(element.aligned(terms, &[xs])),
                u32::from(element.aligned(columns, &[ys])),
                u32::from(weight_aligned),
            ]);
        let columns = at_most(module, "tiles of columns", columns.div_ceil(TILE), GRID)?;
        let grid = [(rows.div_ceil(TILE)) as u32, columns, 1];
        Ok(Launch::new(module, function, grid, THREADS, arguments))
    }
}
