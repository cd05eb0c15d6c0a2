//! CUDA kernels for fine-tuning transformers with low-rank adapters, forward and backward, in f32 and bf16.
//!
//! The kernels are the files of the folder `kernels`. Each struct of this crate ([`Dropout`], [`Attention`], ...) holds the
//! arguments of one of them, and its methods return a [`Launch`]: which function runs, with how many blocks and threads, and on
//! what. The caller owns the memory and the stream.
//!
//! - With the feature `cuda`, `ptx` has the compiled kernels for a driver, and `device` runs them on candle's devices.
//! - With the feature `emulation`, `emulation` runs a launch on the CPU. So the tests check the kernels, and these very launches,
//!   without a GPU. The crate's README explains how.
//!
//! Sums, statistics and optimizer state are f32 or f64. No kernel uses atomics: results are reproducible to the last bit.

mod activation;
mod attention;
mod cache;
mod candidates;
mod cross_entropy;
mod decoding;
#[cfg(feature = "cuda")]
pub mod device;
mod dropout;
#[cfg(feature = "emulation")]
pub mod emulation;
mod error;
#[cfg(feature = "cuda")]
mod graph;
mod int8;
mod launch;
#[cfg(feature = "cuda")]
mod loading;
mod lora;
mod optimizer;
#[cfg(feature = "cuda")]
mod overwrite;
#[cfg(feature = "cuda")]
pub mod ptx;
mod residual_norm;
mod row_add;
mod row_copy;
mod tensor_copy;

pub use activation::{ActivationKind, BiasActivation};
pub use attention::{Attention, AttentionGradients, AttentionSizes, AttentionStrides, VisibleKeys};
pub use cache::CacheWrite;
pub use candidates::TopCandidates;
pub use cross_entropy::{CrossEntropy, LossSum};
pub use decoding::DecodingAttention;
pub use dropout::{Dropout, Mask};
pub use error::{Error, Result};
pub use int8::Int8Linear;
pub use launch::{Element, Launch, Pointer};
pub use lora::{Lora, LoraGradients};
pub use optimizer::{AdamW, OptimizerTensor, TensorTable};
pub use residual_norm::{ResidualNorm, ResidualNormGradient};
pub use row_add::RowAdd;
pub use row_copy::RowCopy;
pub use tensor_copy::TensorCopy;

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
