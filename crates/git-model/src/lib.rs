#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
mod decoder;
mod generate;
mod model;
mod schema;
mod vision;

pub use caption_model::{
    Caption, CaptionDecoder, DecoderShape, Draft, EarlyStopping, Error, GenerationConfig, GenerationDefaults,
    GenerationError, LoadOptions, ModelTokens, Progress, Result, Sampling, SpeculativeDecoder, Step,
};
pub use checkpoint::{Checkpoint, GIT};
pub use config::{GitConfig, VisionConfig};
pub use generate::Decoding;
pub use model::GitForCausalLm;
pub use vision::VisionEncoder;
