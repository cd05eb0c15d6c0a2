//! Stand-ins for the module `cuda` without the feature `fused-cuda`: no kernel serves any tensor.

use candle_core::{DType, Device, Result, Shape, Tensor};
use cpu_kernels::DropoutMask;

use crate::attention::Sizes;
use crate::decoding::{DecodingRows, Seen};
use crate::{Activation, AttentionMask, FrozenLinear};

pub(crate) fn activation(_: &Tensor, _: Activation) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(crate) fn attention(
    _: [&Tensor; 3],
    _: Sizes,
    _: AttentionMask,
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

pub(crate) fn dropout(_: &Tensor, _: &DropoutMask) -> Result<Option<Tensor>> {
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
