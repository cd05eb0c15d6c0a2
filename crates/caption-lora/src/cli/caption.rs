use std::{ffi::OsString, path::PathBuf};

use caption_data::ImageDecoder;
use clap::{
    Parser,
    error::{Error, ErrorKind},
};

use super::decoding::DecodingFlags;
use super::numbers::{count, row};
use super::refusal::{known_elsewhere, refusal};
use super::request::with_negative_numbers;
use crate::hub::Location;
use crate::options::{Caption, DeviceName, Drafting, Storage};

/// Captions pictures with an image-captioning model (GIT or BLIP), with or without a LoRA adapter.
#[derive(Debug, Clone, Parser)]
#[command(name = "caption", version)]
pub struct CaptionFlags {
    /// Pictures to caption: files (png, jpeg, gif, webp, bmp, tiff, ico, pnm, tga, qoi), folders of them, or patterns such as
    /// 'art/*.png'
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset")]
    images: Vec<PathBuf>,
    /// Caption the pictures of a dataset: `embedded`, a parquet file, a folder or a hub id
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    dataset: Option<Location>,
    /// Rows of the dataset, counted from 0, separated by commas; all if not given
    #[arg(
        long,
        value_name = "ROWS",
        value_delimiter = ',',
        value_parser = row,
        requires = "dataset",
        conflicts_with = "images",
        help_heading = "Input"
    )]
    rows: Option<Vec<usize>>,
    /// The column of pictures in the dataset [default: `image`, else the only column of pictures]
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "dataset",
        conflicts_with = "images",
        help_heading = "Input"
    )]
    image_column: Option<String>,
    /// The column of prompts in the dataset, such as questions: each caption continues the prompt of its row
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "dataset",
        conflicts_with_all = ["images", "prompt"],
        help_heading = "Input"
    )]
    prompt_column: Option<String>,
    /// Skip pictures with more pixels; the default is Pillow's limit. Reading takes up to 8 bytes per pixel
    #[arg(long, value_name = "PIXELS", default_value_t = ImageDecoder::PILLOWS_MAX_PIXELS, help_heading = "Input")]
    max_image_pixels: u64,
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded", help_heading = "Model")]
    model: Location,
    /// A LoRA adapter: a local folder, or a hub id, optionally followed by @ and a revision
    #[arg(long, value_name = "NAME", value_parser = adapter, help_heading = "Model")]
    adapter: Option<Location>,
    /// cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value_t, help_heading = "Hardware")]
    device: DeviceName,
    /// How the weights are stored
    #[arg(long, value_enum, default_value_t, help_heading = "Hardware")]
    dtype: Storage,
    /// Processor threads [default: RAYON_NUM_THREADS, or all cores]
    #[arg(long, value_name = "THREADS", value_parser = count, help_heading = "Hardware")]
    threads: Option<usize>,
    /// On an NVIDIA GPU, launch the kernels of each decoding step one after another instead of recorded CUDA
    /// graphs, for debugging
    #[arg(long, help_heading = "Hardware")]
    no_cuda_graph: bool,
    /// Pictures per batch
    #[arg(long, value_name = "PICTURES", default_value = "1", value_parser = count, help_heading = "Hardware")]
    batch_size: usize,
    /// Speculative decoding: an int8 copy of the weights proposes the next tokens, and the model verifies
    /// them in one pass. The captions stay the same; it is faster for up to four beams or draws at a time
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, help_heading = "Hardware")]
    draft: Drafting,
    /// Decoding options.
    #[command(flatten)]
    decoding: DecodingFlags,
    /// Print one JSON line per caption, with token ids, score and seconds, instead of plain text
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Also write the best caption of each picture to this file, as the metadata.jsonl of an image folder:
    /// the pictures must be beside or below it
    #[arg(long, value_name = "FILE", conflicts_with = "dataset", help_heading = "Output")]
    metadata: Option<PathBuf>,
}

impl From<CaptionFlags> for Caption {
    fn from(flags: CaptionFlags) -> Self {
        let CaptionFlags {
            images,
            dataset,
            rows,
            image_column,
            prompt_column,
            max_image_pixels,
            model,
            adapter,
            device,
            dtype,
            threads,
            no_cuda_graph,
            batch_size,
            draft,
            decoding,
            json,
            metadata,
        } = flags;
        Self {
            images,
            dataset,
            rows,
            image_column,
            prompt_column,
            max_image_pixels,
            model,
            adapter,
            device,
            dtype,
            threads,
            no_cuda_graph,
            batch_size,
            draft,
            decoding: decoding.into(),
            json,
            metadata,
        }
    }
}

impl CaptionFlags {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in
    /// clap.
    pub fn from_command_line() -> Caption {
        Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line that starts with the program's name, and checks it.
    ///
    /// # Errors
    /// As clap's; [`ErrorKind::ArgumentConflict`] names the flags that exclude each other.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Caption, Error> {
        let arguments = with_negative_numbers(arguments.into_iter().map(Into::into).collect());
        let flags = Self::try_parse_from(arguments).map_err(|error| explained(&error).unwrap_or(error))?;
        let options = Caption::from(flags);
        let message = if options.dtype == Storage::Int8 && options.adapter.is_some() {
            "--dtype int8 is for a model without --adapter: merge the adapter into it first (merge_adapter)"
        } else if options.dtype == Storage::Int8 && options.device != DeviceName::Cpu {
            "--dtype int8 is for --device cpu: other devices have no 8-bit products here"
        } else if options.draft == Drafting::Always && options.device != DeviceName::Cpu {
            "--draft always is for --device cpu: the draft's weights are 8-bit integers"
        } else if options.dtype == Storage::Int8 && options.draft == Drafting::Always {
            "--draft always does nothing for --dtype int8, whose weights are those that guess"
        } else {
            return Ok(options);
        };
        Err(refusal::<Self>("caption", ErrorKind::ArgumentConflict, message))
    }
}

/// Flags of other programs, and the equivalents here.
const ELSEWHERE: [(&str, &str); 8] = [
    ("--max-length", "--max-new-tokens, which does not count the prompt"),
    ("--min-length", "--min-new-tokens, which does not count the prompt"),
    ("--max-tokens", "--max-new-tokens"),
    ("--beam-size", "--num-beams"),
    ("--beams", "--num-beams"),
    ("--ngram-size", "--no-repeat-ngram-size"),
    ("--bad-words-ids", "--bad-words, which takes words"),
    ("--model-name-or-path", "--model"),
];

/// The error for a command line without pictures, or with a flag of another program. It names the right
/// arguments.
fn explained(error: &Error) -> Option<Error> {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        let message =
            "no pictures: name files, folders or patterns such as 'art/*.png', or a dataset with --dataset";
        return Some(refusal::<CaptionFlags>("caption", ErrorKind::MissingRequiredArgument, message));
    }
    known_elsewhere::<CaptionFlags>("caption", error, &ELSEWHERE)
}

pub(super) fn adapter(text: &str) -> Result<Location, String> {
    match text.parse() {
        Ok(Location::Embedded) => Err("there is no embedded adapter: give a folder or a hub id".into()),
        location => location.map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests;
