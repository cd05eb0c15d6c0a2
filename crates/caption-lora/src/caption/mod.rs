//! Captions of pictures, as the command `caption` prints them:
//!
//! 1. [`Inputs::open`]: the pictures of the command line or of a dataset;
//! 2. [`PictureCaptioner::open`]: the model, its adapter, prompts and decoding options;
//! 3. [`PictureCaptioner::caption_all`]: the captions, batch by batch;
//! 4. [`CaptionWriter`]: prints them, and writes `--metadata`.

mod captioner;
mod inputs;
mod metadata;
mod writer;

pub use captioner::{Captioned, PictureCaptioner, TextCaption};
pub use inputs::Inputs;
pub use writer::CaptionWriter;

use anyhow::Result;

use crate::options::Caption;
use crate::threads::use_threads;

/// Captions the pictures that the options name. Returns the number of pictures that could not be read.
///
/// # Errors
/// If an input cannot be read, the options contradict each other, or a result cannot be written. A picture that cannot
/// be read is skipped with a message.
pub fn run(options: &Caption) -> Result<usize> {
    use_threads(options.threads)?;
    let inputs = Inputs::open(options)?;
    let mut writer = CaptionWriter::new(options, &inputs)?;
    let captioner = PictureCaptioner::open(options, &inputs)?;
    let skipped = captioner.caption_all(|picture| writer.print(picture))?;
    writer.finish()?;
    Ok(skipped)
}
