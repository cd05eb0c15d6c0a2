//! The memory of an NVIDIA GPU that this process uses.

// Attributes of the driver.
#![allow(unsafe_code)]

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{Device, Result};

/// The largest number of bytes in use by tensors since [`begin_peak`], or since the device was opened, and what graphs have reserved
/// at most. The driver's own memory, of some hundred MB, is not in it.
pub(crate) fn peak(device: &Device) -> Result<u64> {
    let number = device.as_cuda_device()?.cuda_stream().context().cu_device();
    let (mut of_tensors, mut of_graphs) = (0u64, 0u64);
    // SAFETY: the device is open, and both attributes are a u64, which the driver writes.
    unsafe {
        let pool = result::device::get_default_mem_pool(number).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut of_tensors).cast()).w()?;
        let attribute = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
        sys::cuDeviceGetGraphMemAttribute(number, attribute, (&raw mut of_graphs).cast()).result().w()?;
    }
    Ok(of_tensors + of_graphs)
}

/// Begins a new peak.
pub(crate) fn begin_peak(device: &Device) -> Result<()> {
    let number = device.as_cuda_device()?.cuda_stream().context().cu_device();
    let mut zero = 0u64;
    // SAFETY: the device is open, and both attributes are a u64, which is 0 to begin anew.
    unsafe {
        let pool = result::device::get_default_mem_pool(number).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast()).w()?;
        let attribute = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
        sys::cuDeviceSetGraphMemAttribute(number, attribute, (&raw mut zero).cast()).result().w()
    }
}
