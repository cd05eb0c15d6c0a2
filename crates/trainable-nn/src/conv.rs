//! Convolutions. If a tensor is trained, they are products with unfolded windows ([`train_ops::Convolution`]),
//! because the backward pass of candle-core 0.11 computes wrong gradients over one dimension (compared with
//! finite differences). Otherwise they are candle's.

use std::sync::Arc;

use candle_core::{Module, Result, Tensor, bail};
pub use candle_nn::conv::{
    Conv1dConfig, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig,
};
use candle_nn::{BatchNorm, Init, init::DEFAULT_KAIMING_NORMAL};

use train_ops::{Adaptation, Convolution};

use crate::error::to_candle;
use crate::{VarBuilder, current_context};

/// A convolution over one dimension, `(batch, in_channels, length)` to `(batch, out_channels, length)`.
#[derive(Clone, Debug)]
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv1dConfig,
}

impl Conv1d {
    /// From a weight of shape `(out_channels, in_channels / groups, kernel_size)` and a bias of shape `(out_channels)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv1dConfig) -> Self {
        Self { weight, bias, config }
    }

    /// Padding, stride, dilation and groups.
    pub fn config(&self) -> &Conv1dConfig {
        &self.config
    }

    /// The weight, of shape `(out_channels, in_channels / groups, kernel_size)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, of shape `(out_channels)`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Conv1d {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        if !is_trained(xs, &self.weight, self.bias.as_ref()) {
            return candle_nn::Conv1d::new(self.weight.clone(), self.bias.clone(), self.config).forward(xs);
        }
        let Conv1dConfig { padding, stride, dilation, groups, .. } = self.config;
        let convolution = Convolution { padding: [0, padding], stride, dilation, groups };
        let weight = self.weight.unsqueeze(2)?;
        let ys = convolution.forward(&xs.unsqueeze(2)?, &weight, self.bias.as_ref());
        ys.map_err(to_candle)?.squeeze(2)
    }
}

/// A convolution over two dimensions, `(batch, in_channels, height, width)` to `(batch, out_channels, height, width)`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
    adaptation: Option<Arc<dyn Adaptation>>,
}

impl Conv2d {
    /// From a weight of shape `(out_channels, in_channels / groups, height, width)` and a bias of shape `(out_channels)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv2dConfig) -> Self {
        Self { weight, bias, config, adaptation: None }
    }

    /// Padding, stride, dilation and groups.
    pub fn config(&self) -> &Conv2dConfig {
        &self.config
    }

    /// The weight, of shape `(out_channels, in_channels / groups, height, width)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, of shape `(out_channels)`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The convolution followed by a batch normalisation, as one convolution.
    ///
    /// # Errors
    /// If the normalisation has no weight and bias, or another number of channels, or the convolution has an adapter.
    pub fn absorb_bn(&self, bn: &BatchNorm) -> Result<Self> {
        if self.adaptation.is_some() {
            bail!("a convolution that can have an adapter cannot absorb a batch normalisation; exclude it")
        }
        let own =
            candle_nn::Conv2d::new(self.weight.clone(), self.bias.clone(), self.config).absorb_bn(bn)?;
        Ok(Self::new(own.weight().clone(), own.bias().cloned(), self.config))
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = match is_trained(xs, &self.weight, self.bias.as_ref()) {
            false => {
                candle_nn::Conv2d::new(self.weight.clone(), self.bias.clone(), self.config).forward(xs)?
            }
            true => {
                let ys = convolution(&self.config).forward(xs, &self.weight, self.bias.as_ref());
                ys.map_err(to_candle)?
            }
        };
        match &self.adaptation {
            None => Ok(ys),
            Some(adaptation) => adaptation.forward(xs, ys, &current_context()).map_err(to_candle),
        }
    }
}

fn convolution(config: &Conv2dConfig) -> Convolution {
    let Conv2dConfig { padding, stride, dilation, groups, .. } = *config;
    Convolution { padding: [padding; 2], stride, dilation, groups }
}

fn is_trained(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> bool {
    xs.track_op() || weight.track_op() || bias.is_some_and(Tensor::track_op)
}

/// A convolution over one dimension, from the tensors `weight` and `bias`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn conv1d(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv1dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv1d> {
    let shape = (out_channels, in_channels / config.groups, kernel_size);
    let weight = vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
    Ok(Conv1d::new(weight, Some(bias(in_channels, out_channels, &vb)?), config))
}

/// A convolution over one dimension, without bias.
///
/// # Errors
/// As [`conv1d`].
pub fn conv1d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv1dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv1d> {
    let shape = (out_channels, in_channels / config.groups, kernel_size);
    Ok(Conv1d::new(vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?, None, config))
}

/// A convolution over two dimensions, from the tensors `weight` and `bias`.
///
/// # Errors
/// As [`conv1d`].
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    let conv = conv2d_no_bias(in_channels, out_channels, kernel_size, config, vb.clone())?;
    Ok(Conv2d { bias: Some(bias(in_channels, out_channels, &vb)?), ..conv })
}

/// A convolution over two dimensions, without bias.
///
/// # Errors
/// As [`conv1d`].
pub fn conv2d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    let shape = (out_channels, in_channels / config.groups, kernel_size, kernel_size);
    let weight = vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
    let adaptation = vb.adapt_conv2d(&weight, convolution(&config))?;
    Ok(Conv2d { adaptation, ..Conv2d::new(weight, None, config) })
}

fn bias(in_channels: usize, out_channels: usize, vb: &VarBuilder<'_>) -> Result<Tensor> {
    let bound = 1. / (in_channels as f64).sqrt();
    vb.get_with_hints(out_channels, "bias", Init::Uniform { lo: -bound, up: bound })
}

macro_rules! transposed {
    ($($(#[$doc:meta])* $name:ident: $config:ty => $layer:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// As [`conv1d`].
        pub fn $name(
            in_channels: usize,
            out_channels: usize,
            kernel_size: usize,
            config: $config,
            vb: VarBuilder<'_>,
        ) -> Result<$layer> {
            candle_nn::$name(in_channels, out_channels, kernel_size, config, vb.to_candle())
        }
    )*};
}

transposed! {
    /// A transposed convolution over one dimension, from the tensors `weight` and `bias`.
    conv_transpose1d: ConvTranspose1dConfig => ConvTranspose1d;
    /// A transposed convolution over one dimension, without bias.
    conv_transpose1d_no_bias: ConvTranspose1dConfig => ConvTranspose1d;
    /// A transposed convolution over two dimensions, from the tensors `weight` and `bias`.
    conv_transpose2d: ConvTranspose2dConfig => ConvTranspose2d;
    /// A transposed convolution over two dimensions, without bias.
    conv_transpose2d_no_bias: ConvTranspose2dConfig => ConvTranspose2d;
}
