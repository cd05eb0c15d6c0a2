//! Merges a LoRA adapter into its model, which then needs no adapter: transformers opens the checkpoint like
//! any other.
//!
//! ```text
//! cargo run --release --example merge_adapter -- --model microsoft/git-base --adapter runs/pokemon/adapter --output-dir merged
//! ```
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use caption_lora::cli::MergeFlags;
use caption_lora::options::Merge;
use caption_lora::terminal::{one_line, say};
use caption_lora::{merge, open, save};

fn main() -> ExitCode {
    match merge_adapter(&MergeFlags::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn merge_adapter(options: &Merge) -> Result<()> {
    let pretrained = open::pretrained(&options.model)?;
    pretrained.say_commit();
    // No file is replaced, and the folder must not have other files that belong to a checkpoint.
    merge::check_output(&options.output_dir, &pretrained.dir)?;
    let adapter = open::adapter_for(&pretrained, &options.adapter)?;
    // Sums are computed in f32 and stored in the type of the checkpoint, or in that of --dtype.
    let merged = merge::merge(pretrained.checkpoint.as_ref(), &adapter, options.dtype.map(Into::into))?;
    // With the model's configuration, its tokenizer and its image processor.
    save::tensors(&merged.tensors, &pretrained.dir, &options.output_dir)?;
    say(format_args!("merged {} layers; written to {}", merged.layers, options.output_dir.display()));
    Ok(())
}
