//! Low-rank adaptation (LoRA) for any candle model, with PEFT's configuration and files.
//!
//! A model that gets its layers from a [`train_ops::LayerBuilder`] can be adapted without changes. Build it
//! with a [`LoraBuilder`]: the layers that a [`LoraConfig`] targets get a trainable update `s B A` in addition
//! to their frozen weight `W`.
//!
//! The [`Adapter`] is a handle on all of these updates. It has their parameters, and saves, loads, disables and
//! merges them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use candle_core::{Device, Result, Tensor};
//! use peft_lora::{LoraBuilder, LoraConfig};
//! use train_ops::{ForwardContext, LayerBuilder, LinearLayer};
//!
//! /// The model defines its layers and their paths, and does not depend on the kind of builder.
//! struct Classifier {
//!     hidden: Arc<dyn LinearLayer>,
//!     output: Arc<dyn LinearLayer>,
//! }
//!
//! impl Classifier {
//!     fn new(builder: &mut dyn LayerBuilder) -> train_ops::Result<Self> {
//!         let weight = |rows, columns| Tensor::rand(-0.1f32, 0.1, (rows, columns), &Device::Cpu);
//!         Ok(Self {
//!             hidden: builder.linear("hidden", weight(32, 16)?, None)?,
//!             output: builder.linear("output", weight(4, 32)?, None)?,
//!         })
//!     }
//!
//!     fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
//!         self.output.forward(&self.hidden.forward(xs, ctx)?.relu()?, ctx)
//!     }
//! }
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let config = LoraConfig { r: 2, lora_alpha: 4.0, target_modules: ["hidden"].into(), ..LoraConfig::default() };
//! let mut lora = LoraBuilder::new(config)?;
//! let model = Classifier::new(&mut lora)?;
//! let adapter = lora.finish()?;
//! assert_eq!(adapter.report().summary(), "96 of 736 (13.0435 %)");
//!
//! // One step of gradient descent on the adapter's parameters; nothing else gets a gradient.
//! let xs = Tensor::ones((1, 16), candle_core::DType::F32, &Device::Cpu)?;
//! let loss = model.forward(&xs, &ForwardContext::training([train_ops::sample_key(0, 0, 0)]))?.sqr()?.sum_all()?;
//! let gradients = loss.backward()?;
//! for parameter in adapter.parameters().values() {
//!     let gradient = gradients.get(parameter).ok_or("no gradient")?;
//!     parameter.set(&(parameter.as_tensor() - (gradient * 0.1)?)?)?;
//! }
//! # Ok(())
//! # }
//! ```

mod adaptation;
mod adapter;
mod adapters;
mod audit;
mod builder;
mod by_sample;
mod combine;
mod config;
mod decomposition;
mod error;
mod files;
mod finite;
mod init;
mod init_lora_weights;
mod inventory;
mod layer;
mod layer_adapter;
mod matching;
mod merge;
mod modules;
mod report;
mod set;
mod state;
mod update;
mod variants;
mod weights;
mod wire;

pub use adapter::{AdaptedLayer, Adapter};
pub use adapters::Adapters;
pub use builder::{BaseType, LoraBuilder};
pub use combine::Combination;
pub use config::LoraConfig;
pub use error::{Error, Misshapen, Result, Unmatched};
pub use init_lora_weights::InitLoraWeights;
pub use modules::Modules;
pub use report::{AdaptedModule, InjectionReport};
pub use state::Disabled;
pub use variants::Bias;

/// The name of the model without adapters, for passes that select an adapter for each sample
/// ([`ForwardContext::with_adapters`](train_ops::ForwardContext::with_adapters)), as in PEFT.
pub const BASE_ADAPTER: &str = "__base__";

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
