use std::{ffi::OsString, path::PathBuf};

use caption_data::ImageDecoder;
use clap::{
    Args, CommandFactory as _, Parser, ValueEnum,
    error::{Error, ErrorKind},
};

use super::{
    Drafting, EarlyStopping,
    values::{count, finite, positive, positive_share, share},
};
use crate::hub::Location;

/// Captions pictures with an image-captioning model (GIT), with or without a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "caption", version)]
pub struct Caption {
    /// Pictures to caption: files (png, jpeg, gif, webp, bmp, tiff, ico, pnm, tga, qoi), folders of them, or patterns such as
    /// 'art/*.png'
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset")]
    pub images: Vec<PathBuf>,
    /// Caption the pictures of a dataset: `embedded`, a parquet file, a folder or a hub id
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub dataset: Option<Location>,
    /// Rows of the dataset, from 0 and separated by commas; all if not given
    #[arg(
        long,
        value_name = "ROWS",
        value_delimiter = ',',
        requires = "dataset",
        conflicts_with = "images",
        help_heading = "Input"
    )]
    pub rows: Option<Vec<usize>>,
    /// The column of the dataset's pictures [default: `image`, else the only one with pictures]
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "dataset",
        conflicts_with = "images",
        help_heading = "Input"
    )]
    pub image_column: Option<String>,
    /// The column of the dataset's prompts, such as questions: each picture's caption continues its own
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "dataset",
        conflicts_with_all = ["images", "prompt"],
        help_heading = "Input"
    )]
    pub prompt_column: Option<String>,
    /// Skip pictures of more pixels; the default is the limit of Pillow. Each takes up to 8 bytes while it is read
    #[arg(long, value_name = "PIXELS", default_value_t = ImageDecoder::PILLOWS_MAX_PIXELS, help_heading = "Input")]
    pub max_image_pixels: u64,
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base
    #[arg(long, value_name = "NAME", default_value = "embedded", help_heading = "Model")]
    pub model: Location,
    /// A LoRA adapter: a local folder or a hub id
    #[arg(long, value_name = "NAME", value_parser = adapter, help_heading = "Model")]
    pub adapter: Option<Location>,
    /// How the weights are stored
    #[arg(long, value_enum, default_value_t, help_heading = "Hardware")]
    pub dtype: Storage,
    /// Processor threads; all cores if not given
    #[arg(long, value_name = "THREADS", value_parser = count, help_heading = "Hardware")]
    pub threads: Option<usize>,
    /// Pictures captioned together
    #[arg(long, value_name = "PICTURES", default_value = "1", value_parser = count, help_heading = "Hardware")]
    pub batch_size: usize,
    /// Let a copy of the weights in 8 bits guess the next words, which the model reads at once and confirms or corrects (speculative
    /// decoding): the same captions, sooner where up to four are followed at a time
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, help_heading = "Hardware")]
    pub draft: Drafting,
    /// How captions are found.
    #[command(flatten)]
    pub decoding: Decoding,
    /// One JSON line a caption, with token ids, score and seconds, instead of plain text
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write the best caption of each picture to this file too, as the metadata.jsonl of an image folder: the pictures must lie beside or
    /// below it
    #[arg(long, value_name = "FILE", conflicts_with = "dataset", help_heading = "Output")]
    pub metadata: Option<PathBuf>,
}

/// How the weights are stored while captioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Storage {
    /// 32 bits
    #[default]
    F32,
    /// bfloat16: half the memory, and what is multiplied with them is rounded too
    Bf16,
    /// 8 bits and a scale for each output, made when the checkpoint is read: a quarter of the memory, sums in f32
    Int8,
}

/// How captions are found, by the names and meanings of Hugging Face's GenerationConfig; the defaults are the recipe's.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Decoding")]
pub struct Decoding {
    /// Captions followed at a time; 1 takes the likeliest word each time. Default 2, and 1 with --do-sample
    #[arg(long, value_name = "BEAMS", default_value = "2", default_value_if("do_sample", "true", "1"), value_parser = count)]
    pub num_beams: usize,
    /// Longest caption, in tokens
    #[arg(long, value_name = "TOKENS", default_value = "40", value_parser = count)]
    pub max_new_tokens: usize,
    /// Shortest caption, in tokens, the end token not counted
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub min_new_tokens: usize,
    /// Beams are compared by their log-probability / length^penalty: above 0 favours long captions, below 0 short ones
    #[arg(long, value_name = "PENALTY", default_value = "1.0", value_parser = finite, allow_negative_numbers = true)]
    pub length_penalty: f64,
    /// Never say the same so many tokens in a row twice; 0 allows it
    #[arg(long, value_name = "TOKENS", default_value_t = 2)]
    pub no_repeat_ngram_size: usize,
    /// Divides the scores of tokens that were said already, above 1 against repetition; 1 changes nothing
    #[arg(long, value_name = "PENALTY", default_value = "1.15", value_parser = positive)]
    pub repetition_penalty: f64,
    /// When beam search stops
    #[arg(long, value_enum, default_value_t)]
    pub early_stopping: EarlyStopping,
    /// Draw each word at random by its probability
    #[arg(long)]
    pub do_sample: bool,
    /// Divides the scores before drawing: below 1 is bolder on the likely words, above 1 evens them out
    #[arg(long, value_name = "T", default_value = "1.0", value_parser = positive, requires = "do_sample")]
    pub temperature: f64,
    /// Draw from the so many likeliest tokens; 0 from all
    #[arg(long, value_name = "TOKENS", default_value_t = 50, requires = "do_sample")]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value = "1.0", value_parser = positive_share, requires = "do_sample")]
    pub top_p: f64,
    /// Draw from the tokens that are at least this share as probable as the likeliest; 0 from all
    #[arg(long, value_name = "P", default_value = "0", value_parser = share, requires = "do_sample")]
    pub min_p: f64,
    /// Seed of the draws
    #[arg(long, value_name = "SEED", default_value_t = 42, requires = "do_sample")]
    pub seed: u64,
    /// Never say these words or phrases: separated by commas, or one a flag
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub bad_words: Vec<String>,
    /// Captions for each picture: of beams the best first and at most as many as there are, of draws any number
    #[arg(long, value_name = "CAPTIONS", default_value = "1", value_parser = count)]
    pub num_return_sequences: usize,
    /// A text that the caption continues, such as a question about the picture
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
}

impl Caption {
    /// Reads the process's command line; help, version and errors are printed and end the process, as clap does it.
    pub fn from_command_line() -> Self {
        Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, the program's name first, and refuses what cannot be done.
    ///
    /// # Errors
    /// As clap's; [`ErrorKind::ArgumentConflict`] names the flags that exclude each other.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, Error> {
        let options = Self::try_parse_from(arguments)?;
        let Decoding { do_sample, num_beams, min_new_tokens, max_new_tokens, num_return_sequences, .. } =
            options.decoding;
        let message = if options.dtype == Storage::Int8 && options.adapter.is_some() {
            "--dtype int8 is for a model without --adapter: merge the adapter into it first (merge_adapter)"
                .into()
        } else if options.dtype == Storage::Int8 && options.draft == Drafting::Always {
            "--draft always does nothing for --dtype int8, whose weights are those that guess".into()
        } else if do_sample && num_beams > 1 {
            format!("--do-sample follows one caption at a time: leave --num-beams {num_beams} out")
        } else if min_new_tokens > max_new_tokens {
            format!("--min-new-tokens {min_new_tokens} is more than --max-new-tokens {max_new_tokens}")
        } else if !do_sample && num_return_sequences > num_beams {
            format!("--num-return-sequences {num_return_sequences} is more than --num-beams {num_beams}")
        } else {
            return Ok(options);
        };
        Err(Self::command().error(ErrorKind::ArgumentConflict, message))
    }
}

fn adapter(text: &str) -> Result<Location, String> {
    match text.parse() {
        Ok(Location::Embedded) => Err("there is no embedded adapter: give a folder or a hub id".into()),
        location => location.map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Caption, Error> {
        Caption::from_arguments(std::iter::once("caption").chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Caption::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_recipes_decoding() {
        let caption = parse("cat.png dog.png").unwrap();
        assert_eq!(caption.images, [PathBuf::from("cat.png"), PathBuf::from("dog.png")]);
        assert_eq!((caption.model, caption.adapter, caption.json), (Location::Embedded, None, false));
        let d = caption.decoding;
        assert_eq!((d.num_beams, d.max_new_tokens, d.min_new_tokens, d.no_repeat_ngram_size), (2, 40, 0, 2));
        assert_eq!(
            (d.length_penalty, d.repetition_penalty, d.early_stopping),
            (1.0, 1.15, EarlyStopping::True)
        );
        assert!(!d.do_sample && d.prompt.is_none() && d.bad_words.is_empty() && d.num_return_sequences == 1);
    }

    #[test]
    fn every_flag_of_the_design_is_there_and_no_other() {
        let designed = "model adapter dtype threads batch-size draft num-beams max-new-tokens min-new-tokens length-penalty \
            no-repeat-ngram-size repetition-penalty early-stopping do-sample temperature top-k top-p min-p seed \
            bad-words num-return-sequences prompt json metadata dataset rows image-column prompt-column max-image-pixels";
        let mut designed: Vec<_> = designed.split_whitespace().collect();
        let command = Caption::command();
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
    }

    #[test]
    fn sampling_follows_one_caption_and_its_flags_need_it() {
        let sampled =
            parse("cat.png --do-sample --temperature 0.7 --top-k 0 --top-p 0.9 --seed 3").unwrap().decoding;
        parse("cat.png --do-sample --num-beams 1 --num-return-sequences 5 --min-p 0.1").unwrap();
        assert_eq!(
            (sampled.num_beams, sampled.temperature, sampled.top_k, sampled.top_p, sampled.seed),
            (1, 0.7, 0, 0.9, 3)
        );
        for arguments in [
            "--temperature 0.7",
            "--seed 1",
            "--do-sample --num-beams 3",
            "--min-new-tokens 41",
            "--do-sample --top-p 0",
            "--do-sample --min-p 2",
            "--dtype int8 --adapter me/lora",
            "--dtype int8 --draft always",
            "--min-p 0.1",
            "--prompt-column question",
            "--num-return-sequences 3",
            "--do-sample --temperature 0",
        ] {
            assert!(parse(&format!("cat.png {arguments}")).is_err(), "{arguments}");
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
        assert_eq!(parse("a.png --length-penalty -0.5").unwrap().decoding.length_penalty, -0.5);
        assert!(parse("a.png --repetition-penalty 0").is_err());
    }
}
