//! Tensors in host memory as slices, for the operations that run on `cpu-kernels`.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor, bail};
use cpu_kernels::Isa;

/// The result of `tensor.storage_and_layout()`.
pub(crate) type View<'a> = (StorageRef<'a>, &'a Layout);

/// The values of a contiguous f32 tensor in host memory.
pub(crate) fn values<'a>(view: &'a View<'_>) -> Result<&'a [f32]> {
    match &*view.0 {
        Storage::Cpu(storage) => slice(storage, view.1),
        _ => bail!("expected a tensor in host memory"),
    }
}

/// The values of a contiguous f32 storage in host memory.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else {
        bail!("expected f32 activations, got {:?}", candle_core::backend::BackendStorage::dtype(storage))
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("expected a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// Whether the kernels support this tensor. For other devices and types each operation is composed of candle's
/// operations.
pub(crate) fn is_host_f32(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// The instruction set of the kernels.
pub(crate) fn isa() -> crate::Result<Isa> {
    Ok(Isa::active()?)
}
