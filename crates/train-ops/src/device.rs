use candle_core::{Device, Result};

/// The NVIDIA GPU with this number, counted from 0, set up for training. It has its own stream, which all
/// threads share, so that their work is in order. The driver does not record two events for each tensor, which
/// only several streams need. Freed memory is kept for the next step instead of being returned whenever the
/// host waits.
///
/// cuBLAS may divide a product in bf16 among several blocks: their sums stay f32. Each call gives cuBLAS a workspace of 32 MB, which is
/// not freed before the program ends; otherwise cuBLAS would allocate one in each recorded graph.
///
/// `Device::new_cuda` does none of this. Tensors of the returned device must not be used on other streams.
///
/// # Errors
/// If the build has no CUDA, or there is no such GPU; with the feature `fused-cuda`, if its driver is older than the toolkit that
/// compiled the kernels.
pub fn cuda_device(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    prepare(device.as_cuda_device()?)?;
    #[cfg(feature = "cuda")]
    prepare_products(device.as_cuda_device()?)?;
    #[cfg(feature = "fused-cuda")]
    cuda_kernels::device::Kernels::check(&device)?;
    Ok(device)
}

/// Returns memory of the device that no tensor uses to the driver, for CUDA graphs, which allocate from another pool.
#[cfg(feature = "fused-cuda")]
pub(crate) fn trim_pool(device: &candle_core::CudaDevice) -> Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::result;

    // SAFETY: the device is the context's, and its default pool is valid as long as the context.
    #[allow(unsafe_code)]
    unsafe {
        // Old GPUs have no pools.
        let device = device.cuda_stream().context().cu_device();
        let Ok(pool) = result::device::get_default_mem_pool(device) else { return Ok(()) };
        result::mem_pool::trim_to(pool, 0).w()
    }
}

#[cfg(feature = "cuda")]
fn prepare(device: &candle_core::CudaDevice) -> Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};

    // SAFETY: a device of candle has one stream, on which all its tensors are made, used and freed.
    #[allow(unsafe_code)]
    unsafe {
        device.disable_event_tracking();
    }
    let context = device.cuda_stream().context().clone();
    let mut kept = u64::MAX;
    // SAFETY: the device is the context's, and the attribute is a u64, which the driver copies.
    #[allow(unsafe_code)]
    unsafe {
        // Old GPUs have no pools.
        let Ok(pool) = result::device::get_default_mem_pool(context.cu_device()) else { return Ok(()) };
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut kept).cast()).w()
    }
}

/// The workspace that NVIDIA recommends for an H100; older GPUs need less.
#[cfg(feature = "cuda")]
const WORKSPACE: usize = 32 << 20;

#[cfg(feature = "cuda")]
fn prepare_products(device: &candle_core::CudaDevice) -> Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::cublas::sys::{self, cublasMath_t};

    let products = device.cublas_handle();
    // SAFETY: the handle is the device's, and the workspace is memory of the device that is never freed. Products of one stream use it
    // one after another. Candle has set the stream before, which would take the workspace away.
    #[allow(unsafe_code)]
    unsafe {
        let workspace = device.alloc::<u8>(WORKSPACE)?.leak();
        sys::cublasSetWorkspace_v2(*products.handle(), workspace as *mut _, WORKSPACE).result().w()?;
        let mode = cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        sys::cublasSetMathMode(*products.handle(), mode).result().w()
    }
}
