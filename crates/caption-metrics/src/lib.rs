#![doc = include_str!("../README.md")]

pub mod bleu;
pub mod cider;
pub mod diversity;
pub mod error_rate;
pub mod ptb;
pub mod rouge;
pub mod sacrebleu;

mod error;
mod ngrams;
mod scores;
mod whitespace;

pub use error::{Error, Result};
pub use scores::{SIGNATURES, Scores, Warning, lower_is_better, score};
