//! Replaces the module `cuda` without the feature `fused-cuda`: no tensor has a kernel.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use cpu_kernels::DropoutMask;

use crate::attention::sizes::Sizes;
use crate::decoding::{DecodingRows, Seen};
use crate::{Activation, AttentionMask, ForwardContext, FrozenLinear, KeyLengths, Run};

pub(crate) fn activation(_: &Tensor, _: Activation) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn computes_in_bf16(_: &FrozenLinear, _: usize) -> Result<bool> {
    Ok(false)
}

pub(crate) fn attention(
    _: [&Tensor; 3],
    _: Sizes,
    _: (AttentionMask, Option<&KeyLengths>),
    _: Option<&DropoutMask>,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn cross_entropy(_: &Tensor, _: &[u32], _: f32) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn linear_cross_entropy(
    _: &Tensor,
    _: &FrozenLinear,
    _: &[u32],
    _: f32,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn decoding_attention(
    _: Seen,
    _: &Tensor,
    _: &[Tensor; 2],
    _: &[Tensor; 2],
    _: usize,
    _: &DecodingRows,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn cache_write(_: [&Tensor; 2], _: &[Tensor; 2], _: &DecodingRows) -> Result<bool> {
    Ok(false)
}

pub(crate) fn select_rows(_: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn dropout(_: &Tensor, _: &DropoutMask) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn activated_linear(_: &Tensor, _: &FrozenLinear, _: Activation) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn frozen_linear(_: &Tensor, _: &FrozenLinear) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn factors(_: &DropoutMask, _: &Shape, _: DType, _: &Device) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn layer_norm(_: &Tensor, _: &Tensor, _: &Tensor, _: f32) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn residual_norm(
    _: [&Tensor; 2],
    _: Option<&DropoutMask>,
    _: &Tensor,
    _: &Tensor,
    _: f32,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn lora_linear(
    _: &Tensor,
    _: &FrozenLinear,
    _: [&Tensor; 2],
    _: f64,
    _: Option<&DropoutMask>,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn copy_rows(_: &Tensor, _: &[Tensor]) -> Result<Option<()>> {
    Ok(None)
}

pub(crate) fn packed_top_logits(_: &Tensor, _: usize) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Numbers of a batch as a tensor of shape `(numbers)` and type u32 on a device.
///
/// # Errors
/// If the device has no memory.
pub fn host_numbers(numbers: &[u32], device: &Device) -> Result<Tensor> {
    Tensor::new(numbers, device)
}

/// Work on an NVIDIA GPU that is recorded once and then repeated by one call of the driver (a CUDA graph).
/// Without the feature `fused-cuda` there are no such graphs.
#[derive(Debug)]
pub struct DeviceGraph(std::convert::Infallible);

impl DeviceGraph {
    /// Whether work on this device can be recorded: never, without the feature `fused-cuda`.
    pub fn is_supported(_: &Device) -> bool {
        false
    }

    /// Records `work`.
    ///
    /// # Errors
    /// Always, without the feature `fused-cuda`.
    pub fn record(_: &Device, _: impl FnMut(Run) -> Result<Vec<Tensor>>) -> Result<Self> {
        bail!("a graph needs a build with the feature fused-cuda")
    }

    /// Queues the work.
    ///
    /// # Errors
    /// Never: there is no such graph.
    pub fn replay(&self, _: &ForwardContext, _: &[u32]) -> Result<&[Tensor]> {
        match self.0 {}
    }
}
