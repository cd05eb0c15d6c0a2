use std::path::PathBuf;

use caption_data::ImageDecoder;
use clap::Args;

use super::numbers::{count, seed};
use crate::hub::Location;
use crate::options::{
    Axis, CheckRows, DataCache, DataOptions, HeldOut, OnBadRow, Padding, ShuffleWindow, SplitBy,
    SplitFractions,
};

/// Inputs and outputs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model and data")]
pub(super) struct DataFlags {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    model: Location,
    /// The captioned pictures: `embedded`, a hub id such as reach-vb/pokemon-blip-captions or owner/name:split, or a path: a
    /// parquet file, a folder of them, a folder that save_to_disk of datasets wrote, or a folder of pictures
    /// with metadata.jsonl (or .csv, .parquet, .json), or with 1.txt (or 1.caption) beside each 1.png
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    dataset: Location,
    /// The column of pictures, or in metadata of their file names [default: `image`, in metadata `file_name`;
    /// else the only possible column]
    #[arg(long, value_name = "COLUMN")]
    image_column: Option<String>,
    /// The column of captions: texts, numbers, class labels, or lists of these for several captions per
    /// picture [default: `text`, else the only one called caption, captions, prompt, description, ...]
    #[arg(long, value_name = "COLUMN")]
    caption_column: Option<String>,
    /// The column of prompts, such as questions: the model reads the prompt and learns the caption as its
    /// continuation
    #[arg(long, value_name = "COLUMN")]
    prompt_column: Option<String>,
    /// Use only this many rows from the start of the dataset [default: 700 of the embedded dataset and of
    /// pokemon-blip-captions, as in the recipe; all rows of others]
    #[arg(long, value_name = "ROWS", value_parser = count)]
    subset: Option<usize>,
    /// Check every row before training, or only some of them and the others when they are read [default: all; sample
    /// of a dataset with more than 50,000 rows or 1 GiB of pictures]
    #[arg(long, value_enum, value_name = "ROWS")]
    check_rows: Option<CheckRows>,
    /// Handling of unusable rows: those with a broken picture or an empty caption
    #[arg(long, value_enum, default_value_t)]
    on_bad_row: OnBadRow,
    /// Refuse pictures with more pixels; the default is Pillow's limit. Reading takes up to 8 bytes per pixel
    #[arg(long, value_name = "PIXELS", default_value_t = ImageDecoder::PILLOWS_MAX_PIXELS)]
    max_image_pixels: u64,
    /// Shares of the rows for training, validation and test; 1,0,0 trains on all rows (with --eval-strategy
    /// no)
    #[arg(long, value_name = "A,B,C", default_value = "0.8,0.1,0.1")]
    split: SplitFractions,
    /// The validation rows, in place of a share of --split: a number of rows, a share of them, another dataset, or a
    /// split of one of the hub, such as owner/name:validation
    #[arg(long, value_name = "ROWS|SHARE|NAME")]
    validation: Option<HeldOut>,
    /// The test rows, likewise [default: beside --validation, as many as that if it is a number or a share, else
    /// none]
    #[arg(long, value_name = "ROWS|SHARE|NAME")]
    test: Option<HeldOut>,
    /// Seed of the split: gives the same rows as `train_test_split` of Hugging Face's datasets
    #[arg(long, value_name = "SEED", default_value_t = 42, value_parser = seed)]
    split_seed: u64,
    /// The unit of the split: rows or pictures
    #[arg(long, value_enum, default_value_t)]
    split_by: SplitBy,
    /// Pad captions to the longest of their batch, or to the model's maximum
    #[arg(long, value_enum, default_value_t)]
    padding: Padding,
    /// Use the training rows in the same order in every epoch, instead of shuffling them
    #[arg(long)]
    no_shuffle: bool,
    /// Shuffle within as many row groups at a time as take this much memory, such as 500MB, or within `all` of the
    /// dataset [default: all; 96MiB for more than 50,000 rows or 1 GiB of pictures]
    #[arg(long, value_name = "SIZE", conflicts_with = "no_shuffle")]
    shuffle_window: Option<ShuffleWindow>,
    /// Fetch parts of a dataset of the hub when they are needed, and keep this much of it, such as 20GB, in place of
    /// downloading it as a whole
    #[arg(long, value_name = "SIZE")]
    data_cache: Option<DataCache>,
    /// Folder for the adapter, checkpoints, metrics, captions and the report. Files that are already in it
    /// stay, except those of an earlier run with --overwrite-output-dir [default: runs/pokemon, or the first
    /// free one of runs/pokemon-2, runs/pokemon-3, ...]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Replace the run in the output folder, finished or not: when training begins, the files that it wrote
    /// are removed, and no others
    #[arg(long, conflicts_with = "resume")]
    overwrite_output_dir: bool,
    /// Run every combination of some options' values, each in a folder below --output-dir, with the image
    /// features computed once, and compare them on one page: --sweep r=4,8,16 lora_alpha=16,32
    #[arg(long, value_name = "NAME=A,B", num_args = 1..)]
    pub(super) sweep: Vec<Axis>,
    /// Caption this many validation pictures at each checkpoint; scores are printed and written to
    /// eval_captions.jsonl
    #[arg(long, value_name = "PICTURES", value_parser = count)]
    eval_captions: Option<usize>,
}

same_fields! {
    DataFlags => DataOptions without sweep {
        model,
        dataset,
        image_column,
        caption_column,
        prompt_column,
        subset,
        check_rows,
        on_bad_row,
        max_image_pixels,
        split,
        validation,
        test,
        split_seed,
        split_by,
        padding,
        no_shuffle,
        shuffle_window,
        data_cache,
        output_dir,
        overwrite_output_dir,
        eval_captions,
    }
}
