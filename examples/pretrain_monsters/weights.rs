//! The weights before training.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use git_model::GitConfig;
use train_ops::sample_key;

/// Initial weights as in transformers: matrices of small normally distributed numbers, biases 0, norms 1.
pub(crate) fn initial_weights(config: &GitConfig, seed: u64) -> Result<BTreeMap<String, Var>> {
    const STD: f64 = 0.02;
    let mut drawn = 0;
    let mut normal = || {
        // The Box-Muller transform of two uniform numbers.
        let mut uniform = || {
            drawn += 1;
            ((sample_key(seed, 0, drawn) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (u, v) = (uniform(), uniform());
        (STD * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    config
        .tensor_shapes()
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values = match (shape.len(), name.ends_with(".weight")) {
                (1, true) => vec![1.0; count],
                (1, false) if name.ends_with(".bias") => vec![0.0; count],
                _ => (0..count).map(|_| normal()).collect(),
            };
            Ok((name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?))
        })
        .collect()
}
