use std::path::PathBuf;

use clap::{Args, ValueEnum};

use caption_data::{ImageDecoder, SourceOptions};

use super::{Axis, EvalStrategy, Finetune, Padding, SplitFractions, values::count};
use crate::hub::Location;

/// Inputs and outputs.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Model and data")]
pub struct DataOptions {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    pub model: Location,
    /// The captioned pictures: `embedded`, a hub id such as reach-vb/pokemon-blip-captions, or a path: a
    /// parquet file, a folder of them, a folder that save_to_disk of datasets wrote, or a folder of pictures
    /// with metadata.jsonl (or .csv, .parquet, .json), or with 1.txt (or 1.caption) beside each 1.png
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    pub dataset: Location,
    /// The column of pictures, or in metadata of their file names [default: `image`, in metadata `file_name`;
    /// else the only possible column]
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// The column of captions: texts, numbers, class labels, or lists of these for several captions per
    /// picture [default: `text`, else the only one called caption, captions, prompt, description, ...]
    #[arg(long, value_name = "COLUMN")]
    pub caption_column: Option<String>,
    /// The column of prompts, such as questions: the model is given the prompt and learns the caption as its
    /// continuation
    #[arg(long, value_name = "COLUMN")]
    pub prompt_column: Option<String>,
    /// Use only this many rows from the start of the dataset [default: 700 of the embedded dataset and of
    /// pokemon-blip-captions, as in the recipe; all rows of others]
    #[arg(long, value_name = "ROWS", value_parser = count)]
    pub subset: Option<usize>,
    /// What to do with unusable rows: those with a broken picture or an empty caption
    #[arg(long, value_enum, default_value_t)]
    pub on_bad_row: OnBadRow,
    /// Refuse pictures with more pixels; the default is Pillow's limit. Reading takes up to 8 bytes per pixel
    #[arg(long, value_name = "PIXELS", default_value_t = ImageDecoder::PILLOWS_MAX_PIXELS)]
    pub max_image_pixels: u64,
    /// Shares of the rows for training, validation and test; 1,0,0 trains on all rows (with --eval-strategy
    /// no)
    #[arg(long, value_name = "A,B,C", default_value = "0.8,0.1,0.1")]
    pub split: SplitFractions,
    /// Seed of the split: gives the same rows as `train_test_split` of Hugging Face's datasets
    #[arg(long, value_name = "SEED", default_value_t = 42, value_parser = super::values::seed)]
    pub split_seed: u64,
    /// What to split: rows or pictures
    #[arg(long, value_enum, default_value_t)]
    pub split_by: SplitBy,
    /// Pad captions to the longest of their batch, or to the model's maximum
    #[arg(long, value_enum, default_value_t)]
    pub padding: Padding,
    /// Use the training rows in the same order in every epoch, instead of shuffling them
    #[arg(long)]
    pub no_shuffle: bool,
    /// Folder for the adapter, checkpoints, metrics, captions and the report. Files that are already in it
    /// stay, except those of an earlier run with --overwrite-output-dir [default: runs/pokemon, or the first
    /// free one of runs/pokemon-2, runs/pokemon-3, ...]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Replace the run in the output folder, finished or not: when training begins, the files that it wrote
    /// are removed, and no others
    #[arg(long, conflicts_with = "resume")]
    pub overwrite_output_dir: bool,
    /// Run every combination of some options' values, each in a folder below --output-dir, with the image
    /// features computed once, and compare them on one page: --sweep r=4,8,16 lora_alpha=16,32
    #[arg(long, value_name = "NAME=A,B", num_args = 1..)]
    pub sweep: Vec<Axis>,
    /// Caption this many validation pictures at each checkpoint; scores are printed and written to
    /// eval_captions.jsonl
    #[arg(long, value_name = "PICTURES", value_parser = count)]
    pub eval_captions: Option<usize>,
}

/// What to do with unusable rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnBadRow {
    /// List them and stop before training
    #[default]
    Stop,
    /// Leave them out and list them in skipped_rows.jsonl
    Skip,
}

/// The unit that is split into training, validation and test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SplitBy {
    /// Rows
    #[default]
    Row,
    /// Pictures, each with all of its rows, so that no test picture is trained on; rows with the same picture
    /// and the same prompt become one row with several captions
    Picture,
}

/// Number of rows of the recipe's dataset that are used.
const RECIPE_ROWS: usize = 700;

/// The recipe's dataset on the hub: its original location, and a copy.
const RECIPE_DATASETS: [&str; 2] = ["lambdalabs/pokemon-blip-captions", "reach-vb/pokemon-blip-captions"];

impl DataOptions {
    /// The maximum number of rows: --subset, else 700 of the embedded and the recipe's dataset, and all of
    /// others.
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
            label_column: None,
            no_captions: false,
            decoder: ImageDecoder { max_pixels: self.max_image_pixels },
        }
    }
}

impl Finetune {
    /// The conflict between a split without validation rows and another flag.
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
