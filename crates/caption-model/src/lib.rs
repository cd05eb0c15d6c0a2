#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
mod config_file;
mod decoding;
mod decoding_graphs;
mod draft;
mod error;
mod generation_defaults;
mod labels;
mod loader;
mod model;
mod patches;
mod schema;
mod tensors;
mod text_batch;
mod weights;
mod words;

pub use caption_generation::{
    BestTokens, Caption, CaptionDecoder, EarlyStopping, Error as GenerationError, GenerationConfig,
    ModelTokens, NextTokens, Progress, Sampling, SpeculativeDecoder, Step,
};
pub use checkpoint::{Architecture, CaptionCheckpoint};
pub use config::CaptionConfig;
pub use config_file::{activation, check_heads, read_json, token_ids};
pub use decoding::{Decoding, TextDecoder};
pub use decoding_graphs::{DecodingGraphs, RefusedStep};
pub use draft::{DecoderShape, Draft, LayerMap};
pub use error::{Error, Result};
pub use generation_defaults::GenerationDefaults;
pub use labels::{ShiftedLabels, padded_targets};
pub use loader::{LoadOptions, Loader};
pub use model::{CaptionModel, DecoderInput};
pub use patches::PatchEmbedding;
pub use schema::TensorSchema;
pub use tensors::CheckpointTensors;
pub use text_batch::{TextBatch, TextIds};
pub use words::WordEmbedding;
