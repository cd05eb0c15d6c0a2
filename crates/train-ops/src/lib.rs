//! Differentiable operations that fine-tuning needs, each with its forward and backward pass side by side.
//!
//! Candle's fused operations cut the gradient silently, and its generic backward pass computes gradients of frozen
//! weights. The operations here do neither: everything that a training step reaches is differentiable, and nothing
//! that is frozen ever gets a gradient.
//!
//! The crate also holds what the other crates meet at:
//!
//! - [`LinearLayer`] and [`LayerBuilder`]: a model asks a builder for each of its layers by the layer's checkpoint
//!   path, and the builder decides what it gets: a frozen layer, a trainable one, one with an adapter.
//! - [`Pass`]: whether a forward pass trains, and if so from which keys its dropout masks are drawn.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use train_ops::{FrozenBuilder, LayerBuilder, Pass};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
//! let layer = FrozenBuilder.linear("classifier", weight, None)?;
//! let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu)?;
//! assert_eq!(layer.forward(&xs, &Pass::inference())?.to_vec2::<f32>()?, [[-1., -1., -1.]]);
//! # Ok(())
//! # }
//! ```

mod activation;
mod attached;
mod attention;
mod buffer;
mod builder;
mod cross_entropy;
mod decoding;
mod dropout;
mod error;
mod host;
mod kernels;
mod layer;
mod layer_norm;
mod linear;
mod mapped;
mod math;
mod memory;
mod names;
mod pass;
mod recompute;
mod threads;
mod tokens;
mod transformer;

pub use activation::Activation;
pub use attention::{AttentionMask, attention};
pub use builder::{FrozenBuilder, Int8Builder, LayerBuilder, TrainableBuilder};
pub use cross_entropy::{cross_entropy_sum, linear_cross_entropy_sum, log_sum_exp};
pub use decoding::{DecodingRows, KeyValueCache, cached_attention};
pub use dropout::Dropout;
pub use error::{Error, Result};
pub use kernels::peak_flops;
pub use layer::LinearLayer;
pub use layer_norm::LayerNorm;
pub use linear::{
    AdaptedLinear, FrozenLinear, LoraWeights, TrainableLinear, int8_snapshot, lora_linear, snapshot,
};
pub use mapped::MappedFile;
pub use memory::{keep_freed_memory, release_memory};
pub use names::Renaming;
pub use pass::{Pass, sample_key};
pub use recompute::recompute;
pub use threads::{on_pool, use_threads};
pub use transformer::TransformerLayer;
