#![doc = include_str!("../README.md")]

mod batch;
mod beam;
mod caption;
mod config;
mod decoder;
mod error;
mod generator;
mod next_tokens;
mod processors;
mod row;
mod sampling;
mod search;
mod single;
mod softmax;
mod speculation;

pub use caption::{Caption, Progress};
pub use config::{EarlyStopping, GenerationConfig, Sampling};
pub use decoder::{CaptionDecoder, SpeculativeDecoder, Step};
pub use error::{Error, Result};
pub use generator::{Generator, ModelTokens};
pub use next_tokens::{BestTokens, NextTokens};
