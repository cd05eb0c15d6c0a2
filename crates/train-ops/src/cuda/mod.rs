//! The operations on NVIDIA GPUs, on the kernels of `cuda-kernels`. A function returns `None` where these do not serve a tensor: one on
//! another device or of another type, or sizes that they were not written for. The operation is then composed of candle's.

mod activation;
mod activations;
mod attention;
mod cross_entropy;
mod decoding;
mod dropout;
mod frozen;
mod graph;
mod inputs;
mod keys;
mod layer_norm;
mod lora;
mod node;
mod product;
mod row_copy;
mod row_selection;
mod tensor_copy;
mod top_logits;

pub(crate) use activation::activation;
pub(crate) use activations::computes_in_bf16;
pub(crate) use attention::attention;
pub(crate) use cross_entropy::{cross_entropy, linear_cross_entropy};
pub(crate) use decoding::{cache_write, decoding_attention};
pub(crate) use dropout::{dropout, factors};
pub(crate) use frozen::{activated_linear, frozen_linear};
pub use graph::DeviceGraph;
pub use inputs::host_numbers;
pub(crate) use layer_norm::{layer_norm, residual_norm};
pub(crate) use lora::lora_linear;
pub(crate) use row_copy::copy_rows;
pub(crate) use row_selection::select_rows;
pub(crate) use top_logits::packed_top_logits;
