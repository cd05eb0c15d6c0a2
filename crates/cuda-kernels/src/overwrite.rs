use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CpuStorage, CudaStorage, InplaceOp1, Layout, Result, Tensor, bail};

/// Replaces the values of a contiguous tensor on a GPU by values of the host, where they are: without other memory.
///
/// # Errors
/// If the tensor is not on a GPU, not contiguous, or of another type or number of values.
pub fn overwrite<T: CudaDType + DeviceRepr + 'static>(tensor: &Tensor, values: &[T]) -> Result<()> {
    tensor.inplace_op1(&FromHost(values))
}

struct FromHost<'a, T>(&'a [T]);

impl<T: CudaDType + DeviceRepr + 'static> InplaceOp1 for FromHost<'_, T> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("overwrite: the tensor is not on a GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) =
            layout.contiguous_offsets().filter(|(start, end)| end - start == self.0.len())
        else {
            bail!("overwrite: {} values for a tensor of {:?}", self.0.len(), layout.dims())
        };
        let device = storage.device().clone();
        device.memcpy_htod(self.0, &mut storage.as_cuda_slice_mut::<T>()?.slice_mut(start..end))
    }
}
