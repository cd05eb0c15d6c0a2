#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
mod decoder;
mod layer;
mod model;
mod schema;
mod vision;

pub use caption_model::{
    Caption, CaptionCheckpoint, CaptionModel, Draft, Error, GenerationConfig, GenerationDefaults,
    LoadOptions, ModelTokens, Result,
};
pub use checkpoint::{BLIP, Checkpoint};
pub use config::{BlipConfig, TextConfig, VisionConfig};
pub use model::BlipForConditionalGeneration;
pub use vision::VisionEncoder;
