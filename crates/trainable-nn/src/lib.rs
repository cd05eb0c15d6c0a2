#![doc = include_str!("../README.md")]
//!
//! # What is replaced
//!
//! | of candle-nn | here |
//! |---|---|
//! | [`VarBuilder`] | gets each linear layer and parameter from a [`LayerBuilder`]: frozen, adapted or trained |
//! | [`Linear`], [`Embedding`], [`LayerNorm`], [`RmsNorm`] | differentiable, and detached from the graph in inference |
//! | [`Activation`], [`ops`], [`rotary_emb`] | fused on the CPU, forward and backward |
//! | [`kv_cache`], [`attention`] | keep the gradients of keys and values |
//! | [`Dropout`] | takes its masks from the forward context |
//!
//! Everything else is candle-nn's own and re-exported. Its optimized attention for decoding
//! (`attention::cpu_flash`, `attention::varlen`, `cpu_flash_attention`), the caches `ScatteredKvCache`,
//! `InterleavedKvCache` and `RawInterleavedKvCache`, and `moe` have no backward pass.

pub use candle_nn::*;

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod conv;
mod dropout;
pub mod embedding;
mod error;
pub mod group_norm;
pub mod kv_cache;
pub mod layer_norm;
mod layers;
pub mod linear;
pub mod ops;
pub mod rnn;
pub mod rotary_emb;
mod softmax;
pub mod var_builder;

pub use activation::{Activation, PReLU, prelu};
pub use batch_norm::{BatchNorm, BatchNormConfig, batch_norm};
pub use conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig, conv_transpose1d, conv_transpose1d_no_bias, conv_transpose2d,
    conv_transpose2d_no_bias, conv1d, conv1d_no_bias, conv2d, conv2d_no_bias,
};
pub use dropout::Dropout;
pub use embedding::{Embedding, embedding};
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::{LayerNorm, LayerNormConfig, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};
pub use linear::{Linear, linear, linear_b, linear_no_bias};
pub use rnn::{GRU, GRUConfig, LSTM, LSTMConfig, RNN, gru, lstm};
pub use train_ops::{
    Entered, ForwardContext, FrozenBuilder, LayerBuilder, TrainableBuilder, current_context, enter,
    sample_key,
};
pub use var_builder::VarBuilder;
