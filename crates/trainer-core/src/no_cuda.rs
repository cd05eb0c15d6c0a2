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
    pub(crate) scale: f32,
}

/// The scalars of all updates.
#[expect(dead_code, reason = "there is no kernel that reads it")]
pub(crate) struct Update {
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
}

/// How gradients are clipped.
#[expect(dead_code, reason = "there is no kernel that reads it")]
pub(crate) struct Clipping {
    pub(crate) max_norm: f64,
    pub(crate) graph: bool,
}

/// The result of a step with clipping.
pub(crate) struct Clipped {
    pub(crate) losses: Vec<f64>,
    pub(crate) norms: Vec<f64>,
    pub(crate) refused: Option<String>,
}

pub(crate) fn adamw(_: &[Updated<'_>], _: &Update) -> Result<Option<()>> {
    Ok(None)
}

pub(crate) fn clipped_adamw(
    _: &[Updated<'_>],
    _: &[Tensor],
    _: &Update,
    _: &Clipping,
) -> Result<Option<Clipped>> {
    Ok(None)
}

pub(crate) fn norms(_: &[&Tensor]) -> Result<Option<Vec<f64>>> {
    Ok(None)
}

pub(crate) fn scaled(_: &[&Tensor], _: f64) -> Result<Option<Vec<Tensor>>> {
    Ok(None)
}

pub(crate) fn copy_in_place(_: &[&Tensor], _: &[&Tensor]) -> Result<Option<()>> {
    Ok(None)
}

pub(crate) fn add_in_place(_: &[&Tensor], _: &[&Tensor]) -> Result<Option<()>> {
    Ok(None)
}
