//! Compares finished runs of pokemon_finetune on one page.
//!
//! ```text
//! cargo run --release --example compare_runs -- runs/a runs/b
//! ```
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use caption_lora::cli::CompareFlags;
use caption_lora::report::compare_runs;
use caption_lora::terminal::one_line;

fn main() -> ExitCode {
    let options = CompareFlags::from_command_line();
    match compare_runs(&options.runs, &options.output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}
