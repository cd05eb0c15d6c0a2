#![doc = include_str!("../README.md")]

mod caption_config;
mod captioning;
mod checkpoint;
mod config;
mod decoder;
mod model;
mod schema;
mod vision;

pub use caption_model::{
    BestTokens, Caption, CaptionCheckpoint, CaptionConfig, CaptionDecoder, CaptionModel, DecoderShape, Draft,
    EarlyStopping, Error, GenerationConfig, GenerationDefaults, GenerationError, LoadOptions, ModelTokens,
    NextTokens, Progress, Result, Sampling, SpeculativeDecoder, Step,
};
pub use captioning::Decoding;
pub use checkpoint::{Checkpoint, GIT};
pub use config::{GitConfig, VisionConfig};
pub use model::GitForCausalLm;
pub use vision::VisionEncoder;
