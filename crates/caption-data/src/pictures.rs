use std::sync::Arc;

use candle_core::{Device, Tensor};
use image_pixels::RgbImage;
use twox_hash::XxHash3_128;

use crate::source::row_of;
use crate::{CaptionSource, Error, ImageProcessor, Prefetch, Result};

/// The response to a row whose picture cannot be read or processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadImage {
    /// Return an error that names the row.
    #[default]
    Fail,
    /// Leave the row out of the batch, and report it in [`PictureBatch::skipped`].
    Skip,
}

/// Reads, decodes and resizes the pictures of a dataset, one batch at a time or several batches ahead.
#[derive(Clone)]
pub struct PictureLoader {
    source: Arc<dyn CaptionSource>,
    processor: Arc<ImageProcessor>,
    on_bad_image: OnBadImage,
}

impl PictureLoader {
    /// A loader that prepares the pictures of `source` with `processor`.
    pub fn new(source: Arc<dyn CaptionSource>, processor: ImageProcessor, on_bad_image: OnBadImage) -> Self {
        Self { source, processor: Arc::new(processor), on_bad_image }
    }

    /// Loads the pictures of some rows, in their order.
    ///
    /// # Errors
    /// With [`OnBadImage::Fail`], if a picture cannot be read or processed. Always if a row does not exist or
    /// a whole file cannot be read.
    pub fn load(&self, rows: &[usize]) -> Result<PictureBatch> {
        let mut batch = PictureBatch {
            rows: Vec::with_capacity(rows.len()),
            images: Vec::with_capacity(rows.len()),
            skipped: Vec::new(),
            processor: Arc::clone(&self.processor),
        };
        for &row in rows {
            let small =
                |image| self.processor.resize_and_crop(&image).map_err(row_of(self.source.name(), row));
            match self.source.image(row).and_then(small) {
                Ok(image) => {
                    batch.rows.push(row);
                    batch.images.push(image);
                }
                Err(error @ Error::Row { .. }) if self.on_bad_image == OnBadImage::Skip => {
                    batch.skipped.push(error)
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// A hash of a row's picture and of the processing. Rows with the same hash have the same pixel values,
    /// also across datasets. It can be the key of a cache for results computed from them.
    ///
    /// # Errors
    /// If there is no such row, or if its picture cannot be read. The picture is not decoded.
    pub fn fingerprint(&self, row: usize) -> Result<u128> {
        let picture = self.source.fingerprint(row)?;
        Ok(XxHash3_128::oneshot(
            &[picture.to_le_bytes(), self.processor.fingerprint().to_le_bytes()].concat(),
        ))
    }

    /// Loads the pictures of many batches, each given by its rows: on `workers` threads, up to `queue`
    /// batches ahead, in order.
    ///
    /// # Errors
    /// If the operating system cannot start a thread.
    pub fn prefetch(
        &self,
        batches: impl IntoIterator<Item = Vec<usize>, IntoIter: Send + 'static>,
        workers: usize,
        queue: usize,
    ) -> Result<Prefetch<PictureBatch>> {
        let loader = self.clone();
        Prefetch::new(batches, workers, queue, move |rows: Vec<usize>| loader.load(&rows))
    }
}

/// The pictures of a batch, resized and cropped. They are kept as 8-bit levels, a quarter of the size of
/// their pixel values.
#[derive(Debug)]
pub struct PictureBatch {
    rows: Vec<usize>,
    images: Vec<RgbImage>,
    skipped: Vec<Error>,
    processor: Arc<ImageProcessor>,
}

impl PictureBatch {
    /// The rows of the pictures in the dataset, without the skipped ones.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// One error for each skipped row: an [`Error::Row`], which names it.
    pub fn skipped(&self) -> &[Error] {
        &self.skipped
    }

    /// The pixel values: f32 of shape `(pictures, 3, height, width)`.
    ///
    /// # Errors
    /// If the tensor cannot be made, or if the processor does not crop and the pictures differ in size.
    pub fn pixel_values(&self, device: &Device) -> Result<Tensor> {
        self.processor.stack(&self.images, device)
    }
}
