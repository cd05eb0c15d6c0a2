#![doc = include_str!("../README.md")]

mod caption_config;
mod checkpoint;
mod config;
mod config_checks;
mod decoder;
mod embeddings;
mod features;
mod layer;
mod model;
mod parts;
mod question_answering;
mod question_encoder;
mod questions;
mod schema;
mod vision;

pub use caption_model::{
    Caption, CaptionCheckpoint, CaptionConfig, CaptionModel, Draft, Error, GenerationConfig,
    GenerationDefaults, LoadOptions, ModelTokens, Result,
};
pub use checkpoint::{BLIP, BLIP_QUESTIONS, Checkpoint};
pub use config::{BlipConfig, BlipTask, TextConfig, VisionConfig};
pub use model::BlipForConditionalGeneration;
pub use question_answering::BlipForQuestionAnswering;
pub use vision::VisionEncoder;
