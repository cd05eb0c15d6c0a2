//! Fine-tunes GIT with LoRA on captioned pictures, and shows its captions before and after.
//!
//! Without arguments it runs the whole recipe on a small model and on drawings that come with this repository. On the
//! real ones:
//!
//! ```text
//! cargo run --release --example pokemon_finetune -- --model microsoft/git-base --dataset reach-vb/pokemon-blip-captions
//! ```
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use recipes::cli::{self, Finetune};
use recipes::finetune::{self, Ending, INTERRUPTED, Session};
use recipes::terminal::one_line;

fn main() -> ExitCode {
    match finetune(&Finetune::from_command_line()) {
        Ok(Ending::Finished) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn finetune(options: &Finetune) -> Result<Ending> {
    let runs = options.sweep(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let mut session = Session::new(options)?;
    if runs.is_empty() {
        finetune::run(options, &cli::command_line(std::env::args_os()), &mut session)
    } else {
        finetune::sweep(options, &runs, &mut session)
    }
}
