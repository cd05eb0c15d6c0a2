//! Merges a LoRA adapter into its model, which then needs no adapter: a checkpoint that transformers opens as any other.
//!
//! ```text
//! cargo run --release --example merge_adapter -- --model microsoft/git-base --adapter runs/pokemon/adapter --output-dir merged
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use git_model::GitForCausalLm;
use peft_lora::LoraBuilder;
use recipes::hub::Location;
use recipes::terminal::{one_line, say};
use recipes::{open, save};
use train_ops::TrainableBuilder;

/// Merges a LoRA adapter into its model.
#[derive(Parser)]
struct Options {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base[@REVISION]
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    model: Location,
    /// The adapter: a local folder or a hub id[@REVISION]
    #[arg(long, value_name = "NAME")]
    adapter: Location,
    /// Folder for the merged checkpoint
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let pretrained = open::pretrained(&options.model)?;

    // Every weight by its name in the checkpoint, in f32.
    let mut weights = TrainableBuilder::new();
    GitForCausalLm::load(&pretrained.checkpoint, &mut weights)?;
    let weights = weights.finish();

    let mut lora = LoraBuilder::from_pretrained(open::adapter_dir(&options.adapter)?)?;
    GitForCausalLm::load(&pretrained.checkpoint, &mut lora)?;
    let adapter = lora.finish()?;
    let mut merged = 0;
    for layer in adapter.merged_weights() {
        let (name, weight) = layer?;
        weights.get(&name).with_context(|| format!("the checkpoint has no {name}"))?.set(&weight)?;
        merged += 1;
    }
    save::checkpoint(&weights, &pretrained.dir, &options.output_dir)?;
    say(format_args!("merged {merged} layers; written to {}", options.output_dir.display()));
    Ok(())
}
