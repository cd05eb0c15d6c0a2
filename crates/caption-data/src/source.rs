use std::fmt::Display;
use std::sync::Arc;

use image_pixels::RgbImage;
use twox_hash::XxHash3_128;

use crate::{Error, LeftOut, Result, Shard};

/// A dataset of pictures with captions, whose rows are numbered from 0. Every dataset of this crate implements
/// it.
///
/// Rows are read on demand and by number, from any thread, so a source holds no decoded pictures. A row that
/// cannot be used is an error that names the dataset and the row; reading it again gives the same error.
pub trait CaptionSource: Send + Sync {
    /// The dataset's name in messages: the path that it was read from, or its generator.
    fn name(&self) -> String;

    /// The number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The caption of a row; the first if it has several.
    ///
    /// # Errors
    /// If there is no such row, if its caption cannot be read, or if it is blank.
    fn caption(&self, row: usize) -> Result<String>;

    /// All captions of a row: the references of its picture, in the order of the dataset. There is at least
    /// one, and none is blank. Default: the one of [`caption`](Self::caption).
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    fn captions(&self, row: usize) -> Result<Vec<String>> {
        Ok(vec![self.caption(row)?])
    }

    /// The text that a row's captions continue, such as a question that they answer. Default: `None`, no
    /// prompt.
    ///
    /// # Errors
    /// If there is no such row, or if its prompt cannot be read.
    fn prompt(&self, _row: usize) -> Result<Option<String>> {
        Ok(None)
    }

    /// The picture of a row: decoded, turned upright by its EXIF orientation, in RGB.
    ///
    /// # Errors
    /// If there is no such row, or if its picture cannot be read or decoded.
    fn image(&self, row: usize) -> Result<RgbImage>;

    /// A hash of the content behind [`image`](Self::image). Rows with the same hash have the same picture, in
    /// this dataset and in every other of its kind. Default: a hash of the pixels. Sources that read files hash
    /// the files without decoding them.
    ///
    /// # Errors
    /// If there is no such row, or if its picture cannot be read.
    fn fingerprint(&self, row: usize) -> Result<u128> {
        let image = self.image(row)?;
        // With the width as the seed, pictures with the same bytes but other proportions differ.
        Ok(XxHash3_128::oneshot_with_seed(image.width().into(), image.as_raw()))
    }

    /// The names of the classes in the order of their numbers, if captions are class labels and the dataset
    /// declares them. Default: `None`.
    fn class_names(&self) -> Option<Vec<String>> {
        None
    }

    /// The files and rows found beside those of the dataset that are not used, with the reasons. Default:
    /// nothing.
    fn left_out(&self) -> LeftOut {
        LeftOut::default()
    }

    /// The parts of the dataset whose rows are read together, in the order of the rows. Default: none, which
    /// means that rows can be read in any order at the same cost.
    fn shards(&self) -> Vec<Shard> {
        Vec::new()
    }

    /// A number that identifies the content of the whole dataset and is computed without reading its rows.
    /// Default: `None`, there is no such number.
    fn content(&self) -> Option<u128> {
        None
    }
}

/// The fingerprint of the picture that is decoded from these bytes.
pub(crate) fn fingerprint_of_file(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// Adds the number of the row to an error.
pub(crate) fn row_of<E: Into<Error>>(dataset: impl Display, row: usize) -> impl FnOnce(E) -> Error {
    move |error| Error::Row { dataset: dataset.to_string(), row, source: Box::new(error.into()) }
}

/// A shared source is a source too, so that a prefetching thread can hold it.
impl<S: CaptionSource + ?Sized> CaptionSource for Arc<S> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        (**self).caption(row)
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        (**self).captions(row)
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        (**self).prompt(row)
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        (**self).image(row)
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        (**self).fingerprint(row)
    }

    fn class_names(&self) -> Option<Vec<String>> {
        (**self).class_names()
    }

    fn left_out(&self) -> LeftOut {
        (**self).left_out()
    }

    fn shards(&self) -> Vec<Shard> {
        (**self).shards()
    }

    fn content(&self) -> Option<u128> {
        (**self).content()
    }
}
