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

/// Captions pictures with an image-captioning model (GIT), with or without a LoRA adapter.
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
    /// A LoRA adapter: a local folder, or a hub id, with @ and a revision behind it if need be
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

/// The error for a command line without pictures, or with a flag of another program: what to give instead.
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
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::options::Decoding;

    fn parse(arguments: &str) -> Result<Caption, Error> {
        CaptionFlags::from_arguments(std::iter::once("caption").chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        CaptionFlags::command().debug_assert();
    }

    #[test]
    fn options_are_none_without_flags() {
        let caption = parse("cat.png dog.png").unwrap();
        assert_eq!(caption.images, [PathBuf::from("cat.png"), PathBuf::from("dog.png")]);
        assert_eq!((caption.model, caption.adapter, caption.json), (Location::Embedded, None, false));
        assert_eq!(caption.decoding, Decoding::default());
    }

    #[test]
    fn every_flag_of_the_design_is_there_and_no_other() {
        let designed = "model adapter device dtype threads batch-size draft num-beams max-new-tokens min-new-tokens length-penalty \
            no-repeat-ngram-size repetition-penalty early-stopping do-sample temperature top-k top-p min-p seed \
            bad-words num-return-sequences prompt json metadata dataset rows image-column prompt-column max-image-pixels";
        let mut designed: Vec<_> = designed.split_whitespace().collect();
        let command = CaptionFlags::command();
        let mut there: Vec<_> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
        designed.sort_unstable();
        there.sort_unstable();
        assert_eq!(there, designed);
    }

    #[test]
    fn pictures_come_from_files_or_from_a_dataset_and_never_from_nowhere() {
        let rows = parse("--dataset embedded --rows 0,1,22").unwrap();
        assert_eq!((rows.dataset, rows.rows), (Some(Location::Embedded), Some(vec![0, 1, 22])));
        for arguments in
            ["", "--json", "cat.png --dataset embedded", "cat.png --rows 1", "--dataset embedded --rows 1,x"]
        {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
        let message = parse("--dataset embedded --rows 0-3").unwrap_err().to_string();
        assert!(message.contains("separated by commas: 0,1,2,3"), "{message}");
    }

    #[test]
    fn invalid_options_are_refused_before_the_checkpoint_is_read() {
        let sampled =
            parse("cat.png --do-sample --temperature 0.7 --top-k 0 --top-p 0.9 --seed 3").unwrap().decoding;
        assert_eq!((sampled.do_sample, sampled.temperature, sampled.top_k), (Some(true), Some(0.7), Some(0)));
        assert_eq!(parse("--do-sample cat.png").unwrap().images, [PathBuf::from("cat.png")]);
        assert_eq!(parse("cat.png --do-sample=false").unwrap().decoding.do_sample, Some(false));
        for arguments in [
            "--do-sample --top-p 0",
            "--do-sample --min-p 2",
            "--dtype int8 --adapter me/lora",
            "--dtype int8 --draft always",
            "--dtype int8 --device cuda",
            "--draft always --device cuda:1",
            "--prompt-column question",
            "--do-sample --temperature -1",
        ] {
            assert!(parse(&format!("cat.png {arguments}")).is_err(), "{arguments}");
        }
    }

    #[test]
    fn the_error_for_temperature_0_suggests_greedy_decoding() {
        for arguments in ["--temperature 0", "--do-sample --temperature 0.0"] {
            let message = parse(&format!("cat.png {arguments}")).unwrap_err().to_string();
            assert!(message.contains("leave --temperature and --do-sample out"), "{message}");
        }
    }

    #[test]
    fn a_flag_of_another_program_is_refused_with_the_equivalent() {
        for (flag, meant) in [
            ("--max-length 20", "there is no --max-length: give --max-new-tokens"),
            ("--max_length=20", "there is no --max-length: give --max-new-tokens"),
            ("--min-length 3", "give --min-new-tokens"),
            ("--beam-size 3", "give --num-beams"),
        ] {
            let message = parse(&format!("cat.png {flag}")).unwrap_err().to_string();
            assert!(message.contains(meant), "{message}");
        }
        let unknown = parse("cat.png --no-such-flag").unwrap_err().to_string();
        assert!(unknown.contains("--no-such-flag"), "{unknown}");
    }

    #[test]
    fn a_missing_picture_and_a_negative_number_are_explained() {
        let message = parse("").unwrap_err().to_string();
        assert!(message.contains("no pictures: name files") && message.contains("--dataset"), "{message}");
        for (arguments, flag) in
            [("a.png --seed -1", "--seed"), ("a.png --no-repeat-ngram-size -1", "--no-repeat-ngram-size")]
        {
            let message = parse(arguments).unwrap_err().to_string();
            assert!(message.contains("-1") && message.contains(flag), "{message}");
            assert!(!message.contains("unexpected argument"), "{message}");
        }
    }

    #[test]
    fn an_adapter_is_a_folder_or_a_hub_id() {
        assert_eq!(
            parse("a.png --adapter src/cli").unwrap().adapter,
            Some(Location::Local("src/cli".into()))
        );
        assert!(matches!(parse("a.png --adapter me/lora").unwrap().adapter, Some(Location::Hub(_))));
        assert!(parse("a.png --adapter embedded").unwrap_err().to_string().contains("no embedded adapter"));
    }

    #[test]
    fn a_penalty_may_be_negative_where_that_has_a_meaning() {
        assert_eq!(parse("a.png --length-penalty -0.5").unwrap().decoding.length_penalty, Some(-0.5));
        assert!(parse("a.png --repetition-penalty 0").is_err());
    }
}
