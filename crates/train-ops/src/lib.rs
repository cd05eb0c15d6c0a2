//! Differentiable operations that fine-tuning needs, each with its forward and backward pass side by side.
//!
//! Candle's fused operations return no gradient, without an error, and its backward pass computes gradients of
//! frozen weights. The operations here do neither: all of them are differentiable, and no frozen tensor gets a
//! gradient.
//!
//! On the CPU in f32 they run on [`cpu_kernels`]. With the feature `fused-cuda`, linear layers, dropout,
//! attention, layer norm, activations, cross entropy and decoding run on the kernels of `cuda-kernels` on
//! NVIDIA GPUs, in f32 and bf16. On other devices and in other types, all operations are composed of candle's
//! operations, with the same backward passes.
//!
//! The crate also has the traits that connect the other crates:
//!
//! - [`LinearLayer`] and [`LayerBuilder`]: a model asks a builder for each of its layers by the layer's
//!   checkpoint path, and the builder returns a frozen layer, a trainable one, or one with an adapter.
//! - [`ForwardContext`]: the mode of a forward pass: inference, or training with the keys of its dropout masks.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use train_ops::{ForwardContext, FrozenBuilder, LayerBuilder};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
//! let layer = FrozenBuilder.linear("classifier", weight, None)?;
//! let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu)?;
//! assert_eq!(layer.forward(&xs, &ForwardContext::inference())?.to_vec2::<f32>()?, [[-1., -1., -1.]]);
//! # Ok(())
//! # }
//! ```

mod activation;
mod attached;
mod attention;
mod backward;
mod builder;
mod content;
mod convolution;
mod cross_entropy;
#[cfg_attr(not(feature = "fused-cuda"), path = "no_cuda.rs")]
mod cuda;
mod cuts;
mod decoding;
mod device;
mod dropout;
mod entered;
mod error;
mod file;
mod forward_context;
mod grad_proxy;
mod graph_run;
mod host;
mod layer;
mod layer_norm;
mod linear;
mod names;
mod pool;
mod recompute;
mod rms_norm;
mod rotary;
mod row_copy;
mod row_selection;
mod scaled_features;
mod shared;
mod softmax;
mod top_logits;
mod transformer;

pub use activation::Activation;
pub use attention::{AttentionMask, KeyLengths, attention, fused_attention, padded_attention};
pub use backward::backward;
pub use builder::{Adaptation, FrozenBuilder, Int8Builder, LayerBuilder, TrainableBuilder};
pub use content::{ContentHash, is_finite};
pub use convolution::Convolution;
pub use cpu_kernels::{keep_freed_memory, peak_flops, release_memory};
pub use cross_entropy::{NO_TARGET, cross_entropy_sum, linear_cross_entropy_sum};
pub use cuda::{DeviceGraph, host_numbers};
pub use cuts::GraphCut;
pub use decoding::{
    DecodingRows, KeyValueCache, cached_attention, cached_cross_attention, cached_self_attention,
};
pub use device::cuda_device;
pub use dropout::Dropout;
pub use entered::{Entered, current_context, enter};
pub use error::{Error, Result};
pub use file::RandomAccessFile;
pub use forward_context::{ForwardContext, sample_key};
pub use graph_run::Run;
pub use layer::LinearLayer;
pub use layer_norm::LayerNorm;
pub use linear::{
    AdaptedLinear, FrozenLinear, LoraWeights, TrainableLinear, int8_snapshot, lora_linear, snapshot,
};
pub use names::Renaming;
pub use pool::on_pool;
pub use recompute::recompute;
pub use rms_norm::rms_norm;
pub use rotary::{RotaryLayout, rotary_embedding};
pub use row_copy::copy_rows;
pub use row_selection::select_rows;
pub use scaled_features::scaled_features;
pub use shared::Shared;
pub use softmax::softmax_last_dim;
pub use top_logits::{TopLogits, packed_top_logits, top_logits};
pub use transformer::{CrossAttention, DecoderLayer, DecoderMasks, TransformerLayer, as_activations};

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
