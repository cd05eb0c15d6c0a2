use std::path::PathBuf;

use caption_data::{CaptionSource, ImageDecoder, SourceOptions, WINDOW_BYTES, is_large};

use super::names::names;
use super::{CheckRows, DataCache, HeldOut, ShuffleWindow, SplitFractions};
use crate::hub::Location;

/// Inputs and outputs of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct DataOptions {
    /// The checkpoint. Default: the embedded one.
    pub model: Location,
    /// The captioned pictures. Default: the embedded drawings.
    pub dataset: Location,
    /// The column of pictures, or in metadata of their file names. Default: `image`, in metadata `file_name`; else the only
    /// possible column.
    pub image_column: Option<String>,
    /// The column of captions. Default: `text`, else the only one called caption, captions, prompt, description, ...
    pub caption_column: Option<String>,
    /// The column of prompts, such as questions, which the captions continue. Default: no prompts.
    pub prompt_column: Option<String>,
    /// The number of rows that are used, from the start of the dataset. Default: see [`most_rows`](Self::most_rows).
    pub subset: Option<usize>,
    /// Which rows are checked before training. Default: all, or a sample of a [large](caption_data::is_large) dataset.
    pub check_rows: Option<CheckRows>,
    /// The response to unusable rows. Default: stop.
    pub on_bad_row: OnBadRow,
    /// Pictures with more pixels are refused. Default: Pillow's limit of 178,956,970.
    pub max_image_pixels: u64,
    /// Shares of the rows for training, validation and test. Default: 0.8, 0.1, 0.1.
    pub split: SplitFractions,
    /// The validation rows, instead of a share. Default: the share in `split`.
    pub validation: Option<HeldOut>,
    /// The test rows, instead of a share. Default: the share in `split`. If `validation` is set, as many rows
    /// as it if it is a number or a share, else none.
    pub test: Option<HeldOut>,
    /// Seed of the split. Default: 42.
    pub split_seed: u64,
    /// The unit that is split. Default: rows.
    pub split_by: SplitBy,
    /// The padded length of captions. Default: the longest of the batch.
    pub padding: Padding,
    /// Whether the training rows are used in the same order in every epoch. Default: false.
    pub no_shuffle: bool,
    /// The part of the dataset in which training rows are shuffled. Default: all, or
    /// [`WINDOW_BYTES`](caption_data::WINDOW_BYTES) of a [large](caption_data::is_large) dataset.
    pub shuffle_window: Option<ShuffleWindow>,
    /// The space for datasets of the hub, parts of which are fetched when they are needed. Default: they are downloaded as a
    /// whole.
    pub data_cache: Option<DataCache>,
    /// Folder for the results. Default: `runs/pokemon`, or the first free one of `runs/pokemon-2`, `runs/pokemon-3`, ...
    pub output_dir: Option<PathBuf>,
    /// Whether the run replaces the one that is in the output folder. Default: false.
    pub overwrite_output_dir: bool,
    /// The number of validation pictures that are captioned at each checkpoint. Default: none.
    pub eval_captions: Option<usize>,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            model: Location::Embedded,
            dataset: Location::Embedded,
            image_column: None,
            caption_column: None,
            prompt_column: None,
            subset: None,
            check_rows: None,
            on_bad_row: OnBadRow::default(),
            max_image_pixels: ImageDecoder::PILLOWS_MAX_PIXELS,
            split: SplitFractions::default(),
            validation: None,
            test: None,
            split_seed: 42,
            split_by: SplitBy::default(),
            padding: Padding::default(),
            no_shuffle: false,
            shuffle_window: None,
            data_cache: None,
            output_dir: None,
            overwrite_output_dir: false,
            eval_captions: None,
        }
    }
}

/// The response to unusable rows: those with a broken picture or an empty caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRow {
    /// List them and stop before training.
    #[default]
    Stop,
    /// Leave them out and list them in `skipped_rows.jsonl`.
    Skip,
}

names!(OnBadRow { Stop => "stop", Skip => "skip" });

/// The unit that is split into training, validation and test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitBy {
    /// Rows.
    #[default]
    Row,
    /// Pictures, each with all of its rows, so that no test picture is trained on. Rows with the same picture and the same
    /// prompt become one row with several captions.
    Picture,
}

names!(SplitBy { Row => "row", Picture => "picture" });

/// The padded length of a batch's captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// The longest caption of the batch.
    #[default]
    Longest,
    /// The model's maximum: slower, with the same loss.
    MaxLength,
}

names!(Padding { Longest => "longest", MaxLength => "max-length" });

/// Number of rows of the recipe's dataset that are used.
const RECIPE_ROWS: usize = 700;

/// The recipe's dataset on the hub: its original location, and a copy.
const RECIPE_DATASETS: [&str; 2] = ["lambdalabs/pokemon-blip-captions", "reach-vb/pokemon-blip-captions"];

impl DataOptions {
    /// The maximum number of rows: [`subset`](Self::subset), else 700 of the embedded and the recipe's dataset, and all of
    /// others.
    pub fn most_rows(&self) -> Option<usize> {
        let is_of_the_recipe = match &self.dataset {
            Location::Embedded => true,
            Location::Local(_) => false,
            Location::Hub(id) => RECIPE_DATASETS.contains(&id.name.as_str()),
        };
        self.subset.or_else(|| is_of_the_recipe.then_some(RECIPE_ROWS))
    }

    /// The datasets that are named as validation or test rows.
    pub fn named_datasets(&self) -> impl Iterator<Item = &Location> {
        [&self.validation, &self.test].into_iter().filter_map(|part| match part {
            Some(HeldOut::Dataset(location)) => Some(location),
            _ => None,
        })
    }

    /// Whether every row is checked before training. If [`check_rows`](Self::check_rows) is not set, this is
    /// the case for datasets that are not [large](caption_data::is_large), and if other options need all rows
    /// to be checked.
    pub fn checks_all(&self, source: &dyn CaptionSource) -> bool {
        let must = self.on_bad_row == OnBadRow::Skip || self.split_by == SplitBy::Picture;
        match self.check_rows {
            Some(check) => check == CheckRows::All,
            None => must || !is_large(source),
        }
    }

    /// The bytes of encoded pictures among which training rows are shuffled; `None` for the whole dataset.
    pub fn window(&self, source: &dyn CaptionSource) -> Option<u64> {
        match self.shuffle_window {
            _ if self.no_shuffle => None,
            Some(ShuffleWindow::All) => None,
            Some(ShuffleWindow::Bytes(bytes)) => Some(bytes as u64),
            None => is_large(source).then_some(WINDOW_BYTES),
        }
    }

    /// The validation and test rows, if they are set instead of shares. With a number or a share of validation
    /// rows there are as many test rows, unless these are set too.
    pub fn held_out(&self) -> Option<[Option<HeldOut>; 2]> {
        let Self { validation, test, .. } = self;
        let alike = || validation.clone().filter(|part| !matches!(part, HeldOut::Dataset(_)));
        match (validation, test) {
            (None, None) => None,
            (_, Some(_)) => Some([validation.clone(), test.clone()]),
            (_, None) => Some([validation.clone(), alike()]),
        }
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
            index_cache: dirs::cache_dir().map(|folder| folder.join("caption-lora/index")),
            memory: self.shuffle_window.map(ShuffleWindow::memory),
        }
    }
}
