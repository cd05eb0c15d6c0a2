use candle_core::Tensor;

use crate::{Result, cuda};

/// The rows `ids` `(count)`, u32, of `xs` `(rows, columns)`, differentiable in `xs`, as `xs.index_select(ids, 0)`. The gradients of a row
/// that is selected several times are added in the order of `ids`.
///
/// # Errors
/// If there are other dimensions, or an id is not below `rows`. On a GPU the ids are not read, and a wrong one is undefined.
pub fn select_rows(xs: &Tensor, ids: &Tensor) -> Result<Tensor> {
    xs.dims2()?;
    match cuda::select_rows(xs, ids)? {
        Some(rows) => Ok(rows),
        None => Ok(xs.index_select(ids, 0)?),
    }
}
