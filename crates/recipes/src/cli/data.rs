use std::path::PathBuf;

use clap::{Args, ValueEnum};

use caption_data::{ImageDecoder, SourceOptions};

use super::{Axis, EvalStrategy, Finetune, Padding, SplitFractions, values::count};
use crate::hub::Location;

/// What is read and written.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Model and data")]
pub struct DataOptions {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    pub model: Location,
    /// The captioned pictures: `embedded`, a hub id such as reach-vb/pokemon-blip-captions, or a path: a parquet file, a
    /// folder of them, or a folder of pictures with metadata.jsonl (or .csv, .parquet), or with 1.txt beside each 1.png
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    pub dataset: Location,
    /// The column of the pictures, or in metadata of their file names [default: `image`, in metadata `file_name`; else the
    /// only one that it can be]
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// The column of the captions: texts, numbers, class labels, or lists of these, which are several captions of a picture
    /// [default: `text`, else the only one called caption, captions, prompt, description, ...]
    #[arg(long, value_name = "COLUMN")]
    pub caption_column: Option<String>,
    /// The column of prompts, such as questions: the model is given them and learns the captions as what follows
    #[arg(long, value_name = "COLUMN")]
    pub prompt_column: Option<String>,
    /// Use the first so many rows of the dataset, or all if it has fewer [default: 700 of the embedded dataset and of
    /// pokemon-blip-captions, as the recipe does; all of another]
    #[arg(long, value_name = "ROWS", value_parser = count)]
    pub subset: Option<usize>,
    /// What to do where rows cannot be used: their picture is broken, or their caption empty
    #[arg(long, value_enum, default_value_t)]
    pub on_bad_row: OnBadRow,
    /// Refuse pictures of more pixels; the default is the limit of Pillow. Each takes up to 8 bytes while it is read
    #[arg(long, value_name = "PIXELS", default_value_t = ImageDecoder::PILLOWS_MAX_PIXELS)]
    pub max_image_pixels: u64,
    /// Shares of the rows for training, validation and test; 1,0,0 trains on all (with --eval-strategy no)
    #[arg(long, value_name = "A,B,C", default_value = "0.8,0.1,0.1")]
    pub split: SplitFractions,
    /// Seed of the split: the same rows as `train_test_split` of Hugging Face's datasets draws
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub split_seed: u64,
    /// What the split deals out
    #[arg(long, value_enum, default_value_t)]
    pub split_by: SplitBy,
    /// Pad the captions of a batch to its longest, or all to the model's maximum
    #[arg(long, value_enum, default_value_t)]
    pub padding: Padding,
    /// Take the training rows in their order in every epoch, instead of a new order each
    #[arg(long)]
    pub no_shuffle: bool,
    /// Folder for the adapter, checkpoints, metrics, captions and the report. Files that are in it stay, but for those of an
    /// earlier run with --overwrite-output-dir [default: runs/pokemon, or the first of runs/pokemon-2, runs/pokemon-3, ...
    /// that is free]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Replace the run that is in the output folder, finished or not: when training begins, the files that it wrote are
    /// removed, and no others
    #[arg(long, conflicts_with = "resume")]
    pub overwrite_output_dir: bool,
    /// Run every combination of some options' values, each in a folder below --output-dir, with the image features
    /// computed once, and compare them on one page: --sweep r=4,8,16 lora_alpha=16,32
    #[arg(long, value_name = "NAME=A,B", num_args = 1..)]
    pub sweep: Vec<Axis>,
    /// Caption so many validation pictures at each checkpoint: scores are printed, and kept in eval_captions.jsonl
    #[arg(long, value_name = "PICTURES", value_parser = count)]
    pub eval_captions: Option<usize>,
}

/// What to do where rows of the dataset cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnBadRow {
    /// Name them and stop, before training begins
    #[default]
    Stop,
    /// Leave them out, and list them in skipped_rows.jsonl
    Skip,
}

/// What is dealt out to training, validation and test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SplitBy {
    /// Rows
    #[default]
    Row,
    /// Pictures, each with all of its rows, so that none that is trained on is tested on; rows with the same picture and the
    /// same prompt become one row with several captions
    Picture,
}

/// Rows that are used of the recipe's dataset.
const RECIPE_ROWS: usize = 700;

/// The recipe's dataset on the hub: its first home, and the copy that is still there.
const RECIPE_DATASETS: [&str; 2] = ["lambdalabs/pokemon-blip-captions", "reach-vb/pokemon-blip-captions"];

impl DataOptions {
    /// The most rows that are used: --subset, else 700 of the embedded and the recipe's dataset, and all of others.
    pub fn most_rows(&self) -> Option<usize> {
        let is_of_the_recipe = match &self.dataset {
            Location::Embedded => true,
            Location::Local(_) => false,
            Location::Hub(id) => RECIPE_DATASETS.contains(&id.name.as_str()),
        };
        self.subset.or_else(|| is_of_the_recipe.then_some(RECIPE_ROWS))
    }

    /// How the dataset is read.
    pub fn source_options(&self) -> SourceOptions {
        SourceOptions {
            image_column: self.image_column.clone(),
            caption_column: self.caption_column.clone(),
            prompt_column: self.prompt_column.clone(),
            no_captions: false,
            decoder: ImageDecoder { max_pixels: self.max_image_pixels },
        }
    }
}

impl Finetune {
    /// Why a split without validation rows does not go with the other flags.
    pub(super) fn split_conflict(&self) -> Option<String> {
        let data = &self.data;
        if data.split.validation > 0.0 {
            return None;
        }
        if self.training.eval_strategy != EvalStrategy::No {
            let split = &data.split;
            return Some(format!(
                "--split {split} leaves no rows for validation: give it a share, or use --eval-strategy no"
            ));
        }
        data.eval_captions.map(|_| {
            format!("--eval-captions captions rows for validation, and --split {} leaves none", data.split)
        })
    }
}
