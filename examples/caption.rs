//! Captions pictures, one line each.
//!
//! ```text
//! cargo run --release --example caption -- --model microsoft/git-base --adapter runs/pokemon/adapter picture.png
//! cargo run --release --example caption -- --dataset embedded --rows 0,1,2 --json
//! ```
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use caption_lora::caption::{CaptionWriter, Inputs, PictureCaptioner};
use caption_lora::cli::CaptionFlags;
use caption_lora::options::Caption;
use caption_lora::terminal::one_line;
use caption_lora::threads::use_threads;

/// The exit code if some pictures could not be read.
const SKIPPED: u8 = 2;

fn main() -> ExitCode {
    match caption(&CaptionFlags::from_command_line()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(skipped) => {
            eprintln!("error: {skipped} of the pictures could not be read and have no caption");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Captions the pictures on the command line; returns how many could not be read.
fn caption(options: &Caption) -> Result<usize> {
    use_threads(options.threads)?;
    // The pictures: files, folders and patterns, or rows of a dataset.
    let inputs = Inputs::open(options)?;
    // Checked before any work: the file of --metadata must not replace another.
    let mut writer = CaptionWriter::new(options, &inputs)?;
    // The model with its adapter, its tokenizer and the decoding options.
    let captioner = PictureCaptioner::open(options, &inputs)?;
    // Batch by batch, each picture is printed as soon as it has its captions.
    let skipped = captioner.caption_all(|picture| writer.print(picture))?;
    writer.finish()?;
    Ok(skipped)
}
