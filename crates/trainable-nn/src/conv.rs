//! Convolutions. Where something is trained they are products of unfolded windows. Candle-core's own backward pass would also
//! compute the gradient of a frozen weight; over one dimension, version 0.11 computes wrong gradients (against finite
//! differences), and over two it takes height and width for equal. Otherwise they are candle's.

use candle_core::{Module, Result, Tensor, bail};
pub use candle_nn::conv::{
    Conv1dConfig, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig,
};
use candle_nn::{BatchNorm, Init, init::DEFAULT_KAIMING_NORMAL};

use crate::{Linear, VarBuilder};

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

    /// The weight.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, if there is one.
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
        let windows = Windows { padding: [0, padding], stride, dilation, groups };
        windows.convolve(&xs.unsqueeze(2)?, &self.weight.unsqueeze(2)?, self.bias.as_ref())?.squeeze(2)
    }
}

/// A convolution over two dimensions, `(batch, in_channels, height, width)` to `(batch, out_channels, height, width)`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
}

impl Conv2d {
    /// From a weight of shape `(out_channels, in_channels / groups, height, width)` and a bias of shape `(out_channels)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv2dConfig) -> Self {
        Self { weight, bias, config }
    }

    /// Padding, stride, dilation and groups.
    pub fn config(&self) -> &Conv2dConfig {
        &self.config
    }

    /// The weight.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The convolution followed by a batch normalisation, as one convolution.
    ///
    /// # Errors
    /// If the normalisation has no weight and bias, or another number of channels.
    pub fn absorb_bn(&self, bn: &BatchNorm) -> Result<Self> {
        let own =
            candle_nn::Conv2d::new(self.weight.clone(), self.bias.clone(), self.config).absorb_bn(bn)?;
        Ok(Self::new(own.weight().clone(), own.bias().cloned(), self.config))
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        if !is_trained(xs, &self.weight, self.bias.as_ref()) {
            return candle_nn::Conv2d::new(self.weight.clone(), self.bias.clone(), self.config).forward(xs);
        }
        let Conv2dConfig { padding, stride, dilation, groups, .. } = self.config;
        let windows = Windows { padding: [padding; 2], stride, dilation, groups };
        windows.convolve(xs, &self.weight, self.bias.as_ref())
    }
}

fn is_trained(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> bool {
    xs.track_op() || weight.track_op() || bias.is_some_and(Tensor::track_op)
}

/// The windows of the input that a convolution multiplies by its weight.
struct Windows {
    /// Of height and width.
    padding: [usize; 2],
    stride: usize,
    dilation: usize,
    groups: usize,
}

impl Windows {
    /// The convolution as a linear layer on the windows.
    fn convolve(&self, xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (out_channels, _, height, width) = weight.dims4()?;
        let (batch, in_channels, ..) = xs.dims4()?;
        let [pad_height, pad_width] = self.padding;
        let xs = xs.pad_with_zeros(2, pad_height, pad_height)?.pad_with_zeros(3, pad_width, pad_width)?;
        let (padded_height, padded_width) = (xs.dim(2)?, xs.dim(3)?);
        let rows = self.starts(padded_height, height)?;
        let columns = self.starts(padded_width, width)?;
        // For each window, the places of its elements in the padded picture.
        let mut places = Vec::with_capacity(rows.len() * columns.len() * height * width);
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                places.push(((row + y * self.dilation) * padded_width + column + x * self.dilation) as u32);
            }
        }
        let windows = rows.len() * columns.len();
        let places = Tensor::from_vec(places, windows * height * width, xs.device())?;
        let unfolded = xs.flatten_from(2)?.contiguous()?.index_select(&places, 2)?;
        let unfolded = unfolded.reshape((batch, in_channels, windows, height * width))?.transpose(1, 2)?;

        let (of_input, of_output) = (in_channels / self.groups, out_channels / self.groups);
        let group = |group: usize| {
            let xs = unfolded.narrow(2, group * of_input, of_input)?.contiguous()?.flatten_from(2)?;
            let weight = weight.narrow(0, group * of_output, of_output)?.flatten_from(1)?;
            let bias = bias.map(|bias| bias.narrow(0, group * of_output, of_output)).transpose()?;
            Linear::new(weight, bias).forward(&xs)
        };
        let ys = match self.groups {
            1 => group(0)?,
            groups => Tensor::cat(&(0..groups).map(group).collect::<Result<Vec<_>>>()?, 2)?,
        };
        ys.transpose(1, 2)?.contiguous()?.reshape((batch, out_channels, rows.len(), columns.len()))
    }

    /// Where the windows of `kernel` elements begin along a padded dimension.
    fn starts(&self, length: usize, kernel: usize) -> Result<Vec<usize>> {
        let window = self.dilation * kernel.saturating_sub(1) + 1;
        if length < window || self.stride == 0 {
            bail!(
                "a convolution of windows of {window} and stride {} does not fit a length of {length}",
                self.stride
            )
        }
        Ok((0..=length - window).step_by(self.stride).collect())
    }
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
    let shape = (out_channels, in_channels / config.groups, kernel_size, kernel_size);
    let weight = vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
    Ok(Conv2d::new(weight, Some(bias(in_channels, out_channels, &vb)?), config))
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
    Ok(Conv2d::new(vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?, None, config))
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
