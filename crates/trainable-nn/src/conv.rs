//! Convolutions: candle-nn's own, which are differentiable except for `ConvTranspose1d`.

use candle_core::Result;
pub use candle_nn::conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig,
};

use crate::VarBuilder;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident: $config:ty => $layer:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// If a tensor is missing or has another shape.
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

constructors! {
    /// A convolution over one dimension, from the tensors `weight` and `bias`.
    conv1d: Conv1dConfig => Conv1d;
    /// A convolution over one dimension, without bias.
    conv1d_no_bias: Conv1dConfig => Conv1d;
    /// A convolution over two dimensions, from the tensors `weight` and `bias`.
    conv2d: Conv2dConfig => Conv2d;
    /// A convolution over two dimensions, without bias.
    conv2d_no_bias: Conv2dConfig => Conv2d;
    /// A transposed convolution over one dimension, from the tensors `weight` and `bias`.
    conv_transpose1d: ConvTranspose1dConfig => ConvTranspose1d;
    /// A transposed convolution over one dimension, without bias.
    conv_transpose1d_no_bias: ConvTranspose1dConfig => ConvTranspose1d;
    /// A transposed convolution over two dimensions, from the tensors `weight` and `bias`.
    conv_transpose2d: ConvTranspose2dConfig => ConvTranspose2d;
    /// A transposed convolution over two dimensions, without bias.
    conv_transpose2d_no_bias: ConvTranspose2dConfig => ConvTranspose2d;
}
