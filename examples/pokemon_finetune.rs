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
use caption_lora::cli::Request;
use caption_lora::finetune::{self, Ending, INTERRUPTED, Session};
use caption_lora::resume::Resumed;
use caption_lora::terminal::one_line;

fn main() -> ExitCode {
    match finetune(Request::from_command_line()) {
        Ok(Ending::Finished) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn finetune(request: Request) -> Result<Ending> {
    let request = Resumed::find(request)?;
    if request.options.data.sweep.is_empty() {
        return finetune::run(&request, &mut Session::new(&request.options)?);
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    // Checks all values before any work is done.
    let runs = request.options.sweep(arguments.clone(), "".as_ref());
    runs.unwrap_or_else(|error| error.exit());
    finetune::sweep(&request, arguments, &mut Session::new(&request.options)?)
}
