//! Merges a LoRA adapter into its model, which then needs no adapter: transformers opens the checkpoint like
//! any other.
//!
//! ```text
//! cargo run --release --example merge_adapter -- --model microsoft/git-base --adapter runs/pokemon/adapter --output-dir merged
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::DType;
use caption_lora::hub::Location;
use caption_lora::terminal::{one_line, say};
use caption_lora::{merge, open, save};
use clap::{Parser, ValueEnum};

/// Merges a LoRA adapter into its model.
#[derive(Parser)]
struct Options {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    model: Location,
    /// The adapter: a local folder, or a hub id, with @ and a revision behind it if need be
    #[arg(long, value_name = "NAME")]
    adapter: Location,
    /// Folder for the merged checkpoint, a new or an empty one
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Storage type of the weights; that of the checkpoint if not given. Sums are computed in f32 in any case
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    /// 32 bits
    F32,
    /// bfloat16: 16 bits, with the range of f32
    Bf16,
    /// 16 bits, with numbers up to 65,504
    F16,
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
    check_output(&options.output_dir, &pretrained.dir)?;
    let dtype = options.dtype.map(|dtype| match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    });
    let merged = merge::merge(&pretrained.checkpoint, &open::adapter_dir(&options.adapter)?, dtype)?;
    save::tensors(&merged.tensors, &pretrained.dir, &options.output_dir)?;
    say(format_args!("merged {} layers; written to {}", merged.layers, options.output_dir.display()));
    Ok(())
}

/// Refuses a folder whose files would be overwritten, or read as part of the merged checkpoint.
fn check_output(output: &Path, base: &Path) -> Result<()> {
    if let (Ok(output), Ok(base)) = (output.canonicalize(), base.canonicalize())
        && output == base
    {
        bail!("--output-dir {} is the folder of the model itself: choose another", output.display());
    }
    merge::check_output(output)
}
