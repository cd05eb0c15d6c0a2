//! Activation functions.

use candle_core::{Module, Result, Tensor};
pub use candle_nn::PReLU;
use serde::{Deserialize, Serialize};

use crate::error::to_candle;
use crate::{VarBuilder, ops};

/// An activation function, named in configurations as in candle-nn.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `x Φ(x)`.
    #[default]
    #[serde(alias = "gelu")]
    Gelu,
    /// GELU's approximation by tanh.
    #[serde(alias = "gelu_new")]
    NewGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x σ(x)`.
    Silu,
    /// `σ(x)`.
    Sigmoid,
    /// `min(max(x / 6 + 1 / 2, 0), 1)`.
    HardSigmoid,
    /// `silu(a) b` with `a` and `b` the halves of the last dimension.
    Swiglu,
    /// `x σ(x)`.
    Swish,
    /// `x tanh(ln(1 + eˣ))`.
    Mish,
    /// `x` times its hard sigmoid.
    HardSwish,
    /// `x`, or `alpha (eˣ - 1)` below 0.
    Elu(f64),
    /// `x`, or the given slope times `x` below 0.
    LeakyRelu(f64),
    /// GELU's approximation by tanh.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluPytorchTanh,
}

impl Module for Activation {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let fused = |activation: train_ops::Activation| activation.forward(xs).map_err(to_candle);
        match self {
            Self::Gelu => fused(train_ops::Activation::Gelu),
            Self::NewGelu | Self::GeluPytorchTanh => fused(train_ops::Activation::GeluTanh),
            Self::Silu | Self::Swish => fused(train_ops::Activation::Silu),
            Self::Relu => xs.relu(),
            Self::Relu2 => xs.relu()?.sqr(),
            Self::Relu6 => xs.clamp(0f32, 6f32),
            Self::Sigmoid => ops::sigmoid(xs),
            Self::HardSigmoid => ops::hard_sigmoid(xs),
            Self::Swiglu => ops::swiglu(xs),
            Self::HardSwish => xs * ops::hard_sigmoid(xs)?,
            Self::Mish => ops::mish(xs),
            Self::Elu(alpha) => xs.elu(*alpha),
            Self::LeakyRelu(slope) => ops::leaky_relu(xs, *slope),
        }
    }
}

/// A leaky ReLU whose slope is a parameter, `weight`: one for all channels, or one for each of `num_channels`.
///
/// # Errors
/// If it is missing or has another shape.
pub fn prelu(num_channels: Option<usize>, vb: VarBuilder<'_>) -> Result<PReLU> {
    candle_nn::prelu(num_channels, vb.to_candle())
}
