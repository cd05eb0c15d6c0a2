//! Batch normalisation.

use candle_core::Result;
use candle_nn::Init;
pub use candle_nn::batch_norm::{BatchNorm, BatchNormConfig};

use crate::VarBuilder;

/// Batch normalisation from the tensors `running_mean` and `running_var`, which are not parameters, and, if
/// `config` is affine, `weight` and `bias`.
///
/// # Errors
/// If one is missing or has another shape, or `config` holds an invalid number.
pub fn batch_norm<C: Into<BatchNormConfig>>(
    num_features: usize,
    config: C,
    vb: VarBuilder<'_>,
) -> Result<BatchNorm> {
    let config = config.into();
    let mean = vb.buffer(num_features, "running_mean", Init::Const(0.))?;
    let var = vb.buffer(num_features, "running_var", Init::Const(1.))?;
    if !config.affine {
        return BatchNorm::new_no_bias_with_momentum(num_features, mean, var, config.eps, config.momentum);
    }
    let weight = vb.get_with_hints(num_features, "weight", Init::Const(1.))?;
    let bias = vb.get_with_hints(num_features, "bias", Init::Const(0.))?;
    BatchNorm::new_with_momentum(num_features, mean, var, weight, bias, config.eps, config.momentum)
}
