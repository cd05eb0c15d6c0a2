//! The application: fine-tunes image-captioning models with LoRA, captions pictures, merges adapters, compares runs.
//!
//! Model, adapters, data, scores and training engine do not depend on each other; this crate connects them:
//!
//! - [`commands`]: the subcommands of the program
//! - [`cli`]: their command lines
//! - [`options`]: the options of every command as plain structs
//! - [`finetune`]: the stages of a fine-tuning run, and the run itself
//! - [`caption`]: the stages of captioning pictures
//! - [`embedded`]: the small checkpoint that is part of the program
//! - [`pictures`]: files and folders of pictures named on the command line
//! - [`hub`]: downloads of models, datasets and adapters
//! - [`open`]: opens checkpoints and datasets by location
//! - [`folders`]: suggests the right folder if a wrong one was given
//! - [`adapt`]: selects the layers of a model that are trained
//! - [`merge`]: adds an adapter to the weights of its model
//! - [`prompts`]: the prompts that captions continue
//! - [`captioning`]: a model with its tokenizer and image processor, from pictures to captions
//! - [`features`]: the cache of the frozen encoder's image features
//! - [`task`], [`batches`]: captioning as a task of the training engine, and its batches
//! - [`training_text`]: the tokens of a training batch
//! - [`step_graphs`]: recorded passes on NVIDIA GPUs
//! - [`fusing`]: chooses the number of micro-batches of a step that run together
//! - [`judge`]: evaluation on the test split
//! - [`results`], [`report`]: the results of a run: metrics, captions, curves, report
//! - [`save`]: writes whole checkpoints
//! - [`files`]: atomic file replacement
//! - [`distributed`]: the processes of one job, which train one model together
//! - [`terminal`]: messages for the user
//! - [`shell`]: commands in shell syntax
//! - [`threads`]: the number of threads of a process
//! - [`run_folder`]: the output folder: its lock and the record of the run's files
//! - [`resume`]: finds the run to resume
//! - [`engine_words`]: rewrites the engine's messages in terms of flags

pub mod adapt;
pub mod batches;
pub mod caption;
pub mod captioning;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod commands;
pub mod distributed;
pub mod embedded;
pub mod engine_words;
pub mod features;
pub mod files;
pub mod finetune;
pub mod folders;
pub mod fusing;
pub mod hub;
pub mod judge;
pub mod merge;
pub mod open;
pub mod options;
pub mod pass_shape;
pub mod pictures;
pub mod prompts;
pub mod report;
pub mod results;
pub mod resume;
pub mod row_order;
pub mod run_folder;
pub mod save;
pub mod shell;
pub mod step_graphs;
pub mod task;
pub mod terminal;
pub mod threads;
pub mod training_text;
mod vision_graphs;

/// The program in this crate's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct CrateReadme;

/// The programs in the book's chapters compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/libraries.md")]
#[doc = include_str!("../../../docs/captions.md")]
#[doc = include_str!("../../../docs/add-an-operation.md")]
struct Book;

/// The program in the project's README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
