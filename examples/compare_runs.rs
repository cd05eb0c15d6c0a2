//! Writes one page with the results and learning curves of several runs side by side.
//!
//! ```text
//! cargo run --release --example compare_runs -- runs/a runs/b --output runs/compare.html
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use caption_lora::report::{Run, write_comparison};
use caption_lora::terminal::{one_line, say};
use clap::Parser;

/// Compares finished runs of pokemon_finetune on one page.
#[derive(Parser)]
struct Options {
    /// Output folders of the runs
    #[arg(value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "runs/compare.html")]
    output: PathBuf,
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
    let runs = options.runs.iter().map(|dir| Run::read(dir)).collect::<Result<Vec<_>>>()?;
    for run in &runs {
        say(format_args!("{}\n{}", run.name, run.metrics));
    }
    write_comparison(&runs, &options.output)?;
    say(format_args!("written to {}", options.output.display()));
    Ok(())
}
