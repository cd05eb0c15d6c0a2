//! Wires the libraries into the recipes of `examples/` and `benches/`.
//!
//! The libraries know nothing of each other; here they meet:
//!
//! - [`finetune`]: the stages of a fine-tuning run, and the run itself;
//! - [`cli`]: the command lines of the examples; [`pictures`]: the files that they name; [`hub`]: where models and datasets come from;
//! - [`open`]: checkpoints and datasets by location; [`folders`]: which folder was meant; [`adapt`]: which layers of a model are
//!   trained; [`merge`]: an adapter added to its model;
//! - [`prompts`]: what captions continue; [`captioning`]: a model with its tokenizer and image processor, from pictures to captions; [`features`]: what its
//!   frozen encoder sees, kept; [`task`]: the same as a task of the training engine; [`fusing`]: what a pass of it takes;
//! - [`judge`]: how good the captions are; [`results`], [`plot`], [`report`]: what a run leaves behind; [`save`]: whole checkpoints;
//!   [`terminal`]: what is said meanwhile;
//! - [`run_folder`]: whose the files of an output folder are; [`identity`]: what a run is; [`resume`]: which run is continued;
//!   [`engine_words`]: the engine's messages in the words of the command line.

pub mod adapt;
pub mod captioning;
pub mod cli;
pub mod engine_words;
pub mod features;
pub mod files;
pub mod finetune;
pub mod folders;
pub mod fusing;
pub mod hub;
pub mod identity;
pub mod judge;
pub mod merge;
pub mod open;
pub mod pictures;
pub mod plot;
pub mod prompts;
pub mod report;
pub mod results;
pub mod resume;
pub mod run_folder;
pub mod save;
pub mod setup;
mod setup_rows;
pub mod task;
pub mod terminal;

/// The program in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
