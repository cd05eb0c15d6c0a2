//! Replaces the module `cuda` without the feature `fused-cuda`: no tensor has a kernel.

use candle_core::{Result, Tensor};

/// A parameter with its gradient and moments, and the scalars of its update.
#[expect(dead_code, reason = "there is no kernel that reads it")]
pub(crate) struct Updated<'a> {
    pub(crate) parameter: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
    pub(crate) decay: f32,
    pub(crate) step_size: f32,
    pub(crate) root_correction: f32,
}

pub(crate) fn adamw(_: &[Updated<'_>], _: [f64; 2], _: f64) -> Result<Option<()>> {
    Ok(None)
}

pub(crate) fn norms(_: &[&Tensor]) -> Result<Option<Vec<f64>>> {
    Ok(None)
}

pub(crate) fn scaled(_: &[&Tensor], _: f64) -> Result<Option<Vec<Tensor>>> {
    Ok(None)
}
