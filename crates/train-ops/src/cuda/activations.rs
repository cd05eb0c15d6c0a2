use candle_core::{DType, Result};
use cuda_kernels::device::Kernels;

use crate::FrozenLinear;

/// The most features of a head.
pub(super) const MOST_HEAD_DIM: usize = 64;

/// Whether the kernels compute a layer with this weight in bf16, all sums in f32.
pub(crate) fn computes_in_bf16(base: &FrozenLinear, head_dim: usize) -> Result<bool> {
    if base.dtype() != DType::BF16 || !base.device().is_cuda() || head_dim > MOST_HEAD_DIM {
        return Ok(false);
    }
    Ok(Kernels::of(&base.weight().map_err(candle_core::Error::wrap)?).is_some())
}
