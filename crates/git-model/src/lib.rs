#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
mod decoder;
mod decoding;
mod draft;
mod error;
mod generate;
mod generation_defaults;
mod loader;
mod model;
mod schema;
mod vision;
mod weights;
mod words;

pub use caption_generation::{
    Caption, CaptionDecoder, EarlyStopping, Error as GenerationError, GenerationConfig, ModelTokens,
    Progress, Sampling, SpeculativeDecoder, Step,
};
pub use checkpoint::Checkpoint;
pub use config::{GitConfig, VisionConfig};
pub use decoding::Decoding;
pub use draft::{DecoderShape, Draft};
pub use error::{Error, Result};
pub use generation_defaults::GenerationDefaults;
pub use model::{GitForCausalLm, LoadOptions};
pub use vision::VisionEncoder;
