//! Microsoft's GIT image-captioning model on candle: a CLIP vision encoder, a projection, and a BERT-style decoder that
//! reads image tokens and then text (Wang et al., 2022, <https://arxiv.org/abs/2205.14100>).
//!
//! It computes what transformers' `GitForCausalLM` computes, from the same files, for every published variant (base,
//! large, fine-tuned, video), and it can be trained: every layer comes from a
//! [`LayerBuilder`](train_ops::LayerBuilder), which decides what is frozen, trainable or adapted.
//!
//! ```no_run
//! use git_model::{Checkpoint, GenerationConfig, GitForCausalLm};
//! use train_ops::{FrozenBuilder, Pass};
//!
//! # fn pixels() -> candle_core::Tensor { unimplemented!() }
//! # fn main() -> git_model::Result<()> {
//! let checkpoint = Checkpoint::open("checkpoints/git-base")?;
//! let model = GitForCausalLm::load(&checkpoint, &mut FrozenBuilder)?;
//! let features = model.encode_images(&pixels(), &Pass::inference())?; // (batch, 197, 768)
//! let captions = model.generate(&features, None, &GenerationConfig::recipe())?; // captions[0].ids, captions[0].score
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod config;
mod decoder;
mod decoding;
mod error;
mod generation;
mod generation_defaults;
mod loader;
mod model;
mod schema;
mod vision;
mod weights;
mod words;

pub use checkpoint::Checkpoint;
pub use config::{GitConfig, VisionConfig};
pub use decoding::{Decoding, Draft};
pub use error::{Error, Result};
pub use generation::{Caption, EarlyStopping, GenerationConfig, Progress, Sampling};
pub use generation_defaults::GenerationDefaults;
pub use model::{GitForCausalLm, IGNORE_INDEX, LoadOptions};
pub use vision::VisionEncoder;
