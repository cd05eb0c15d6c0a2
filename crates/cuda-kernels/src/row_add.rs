use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// The gradient of selecting rows: `sums[ids[i]] += rows[i]` for each `i`, in this order, from 0. Rows of `sums` that no id names are 0.
#[derive(Clone, Debug)]
pub struct RowAdd {
    /// `(count, columns)`.
    pub rows: Pointer,
    /// `(count)`, u32, below `sum_rows`.
    pub ids: Pointer,
    /// `(sum_rows, columns)`, written whole.
    pub sums: Pointer,
    /// Number of ids.
    pub count: usize,
    /// Elements of a row.
    pub columns: usize,
    /// Rows of the sums.
    pub sum_rows: usize,
}

const THREADS: u32 = 128;

impl RowAdd {
    /// The kernel.
    ///
    /// # Errors
    /// If a size is beyond the limits of a grid.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let kernel = "row_add";
        let arguments = Arguments::default()
            .pointers(&[self.rows, self.ids, self.sums])
            .u32s(&[size(kernel, "rows", self.count)?, size(kernel, "elements of a row", self.columns)?]);
        let vectors = element.aligned(self.columns, &[self.rows, self.sums]);
        let function = pick(element_kernels!("row_add"), element, !vectors);
        let grid = [size(kernel, "rows of sums", self.sum_rows)?, 1, 1];
        Ok(Launch::new(kernel, function, grid, THREADS, arguments))
    }
}
