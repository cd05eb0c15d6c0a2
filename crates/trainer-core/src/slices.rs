//! Access to the elements of f32 CPU tensors without copies.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Runs `read` on the elements of an f32 tensor on the CPU, in row-major order.
pub(crate) fn with_slice<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(read(&values[start..end])),
        _ => bail!("expected a contiguous f32 tensor on the CPU, got {tensor:?}"),
    }
}

/// Runs `update` on the elements of a contiguous f32 tensor on the CPU, in place.
///
/// Calls may be nested, so that one loop can update several tensors.
pub(crate) fn with_slice_mut<F: FnOnce(&mut [f32]) -> Result<()>>(tensor: &Tensor, update: F) -> Result<()> {
    tensor.inplace_op1(&InPlace(Cell::new(Some(update))))
}

/// candle calls an in-place operation by shared reference, and exactly once: the closure is taken out of the
/// cell.
struct InPlace<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "update-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets(), self.0.take()) {
            (CpuStorage::F32(values), Some((start, end)), Some(update)) => update(&mut values[start..end]),
            _ => bail!("expected a contiguous f32 tensor on the CPU"),
        }
    }
}
