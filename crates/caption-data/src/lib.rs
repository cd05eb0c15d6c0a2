//! Pictures with captions: sources, image processing, tokenizing, label masking, splits and batches.
//!
//! This crate prepares the data for training a captioning model, and gives the same numbers as the Hugging
//! Face stack:
//!
//! - [`CaptionSource`]: a dataset, row by row. [`open`] detects whether a path holds parquet files
//!   ([`ParquetSource`]), tar files ([`WebDataset`]) or a folder of pictures ([`ImageFolder`]). [`Subset`]
//!   chooses rows, [`ByPicture`] groups the rows of one picture, and [`Inspection`] finds the rows that cannot
//!   be used. [`selection`] decides which files belong to the training split.
//! - [`ImageDecoder`] and [`ImageProcessor`]: picture files to pixel values, like `datasets`, Pillow and
//!   `CLIPImageProcessor`.
//! - [`CaptionTokenizer`], [`TokenizedCaptions`] and [`CaptionBatch`]: captions to token ids and labels.
//! - [`train_test_split`], [`split()`] and [`shuffled`]: the same rows as `datasets` chooses for a seed.
//! - [`ClassLabels`]: the numbers of a column of class labels.
//! - [`PictureLoader`] and [`Prefetch`]: decode and resize pictures before they are needed.
//!
//! ```
//! use std::sync::Arc;
//!
//! use candle_core::Device;
//! use caption_data::{
//!     CaptionSource, CaptionTokenizer, ImageProcessor, OnBadImage, Padding, PictureLoader, SourceOptions,
//!     Subset, TokenizedCaptions, open, split,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
//! # let (dataset, checkpoint) = (fixtures.join("parquet/snapshot"), fixtures.join("tokenizer"));
//! let source = Arc::new(Subset::first(open(dataset, &SourceOptions::default())?, 700));
//! let rows = split(source.len(), [0.6, 0.2, 0.2], 42)?;
//!
//! let captions = TokenizedCaptions::new(&source, &CaptionTokenizer::from_pretrained(checkpoint)?)?;
//! let pictures = PictureLoader::new(source, ImageProcessor::default(), OnBadImage::Fail);
//!
//! let batches: Vec<_> = rows.train.chunks(2).map(<[_]>::to_vec).collect();
//! for pictures in pictures.prefetch(batches, 1, 4)? {
//!     let pictures = pictures?;
//!     let captions = captions.batch(pictures.rows(), Padding::Longest)?;
//!     let pixel_values = pictures.pixel_values(&Device::Cpu)?;
//!     let (input_ids, labels) = (captions.input_ids(&Device::Cpu)?, captions.labels(&Device::Cpu)?);
//!     assert_eq!(pixel_values.dims()[0], input_ids.dims()[0]);
//!     assert_eq!(input_ids.dims(), labels.dims());
//! }
//! # Ok(())
//! # }
//! ```

mod bert;
mod by_picture;
mod captions;
mod class_labels;
mod columns;
mod concat;
mod error;
mod folder;
mod folder_files;
mod inspection;
mod left_out;
mod lenient_json;
mod lfs;
mod metadata;
mod open;
mod pcg64;
mod pictures;
mod prefetch;
mod processor;
mod processor_config;
mod shard;
mod source;
mod split;
mod subset;
#[cfg(feature = "parquet")]
mod tables;
mod text_block;
mod text_encoding;
mod texts;
mod tokenized;
mod tokenizer;
mod tokenizer_config;
mod walk;
mod webdataset;

pub mod selection;

pub use by_picture::ByPicture;
pub use captions::{CaptionBatch, IGNORE_INDEX, Padding};
pub use class_labels::ClassLabels;
pub use columns::ColumnRole;
pub use concat::Concat;
pub use error::{Error, Result};
pub use folder::ImageFolder;
pub use image_pixels::{self, ImageDecoder, Resample, RgbImage, resize};
pub use inspection::{BadRow, Inspection};
pub use left_out::{LeftOut, LeftOutGroup, LeftOutReason};
pub use metadata::RecordPlace;
pub use open::{SourceOptions, open};
pub use pictures::{OnBadImage, PictureBatch, PictureLoader};
pub use prefetch::Prefetch;
pub use processor::ImageProcessor;
pub use processor_config::{ImageSize, ProcessorConfig};
pub use shard::{Shard, WINDOW_BYTES, is_large, sample_rows, window_memory};
pub use source::CaptionSource;
pub use split::{
    Split, shuffled, split, split_by_picture, split_off, split_off_by_picture, train_test_split,
};
pub use subset::Subset;
#[cfg(feature = "parquet")]
pub use tables::{ParquetSource, RemoteFile};
pub use tokenized::{TokenCuts, TokenizedCaptions};
pub use tokenizer::{CaptionTokenizer, Encoded};
pub use walk::{Pictures, pictures_of};
pub use webdataset::{WebDataset, is_pattern};

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
