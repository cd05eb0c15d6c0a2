//! Group normalisation.

use candle_core::Result;
pub use candle_nn::group_norm::GroupNorm;

use crate::VarBuilder;

/// Group normalisation from the tensors `weight` and `bias`.
///
/// # Errors
/// If one is missing or has another shape, or the groups do not divide the channels.
pub fn group_norm(num_groups: usize, num_channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<GroupNorm> {
    candle_nn::group_norm(num_groups, num_channels, eps, vb.to_candle())
}
