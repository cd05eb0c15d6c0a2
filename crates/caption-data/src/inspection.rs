use std::sync::Arc;

use crate::source::row_of;
use crate::{CaptionSource, Error, ImageProcessor, Prefetch, Result};

/// The result of reading every row of a dataset: the rows that cannot be used, and the picture of each other
/// row.
#[derive(Debug)]
pub struct Inspection {
    /// The [fingerprint](CaptionSource::fingerprint) of each row's picture; `None` for rows that cannot be used.
    pub pictures: Vec<Option<u128>>,
    /// Rows that cannot be used, in ascending order.
    pub bad: Vec<BadRow>,
}

/// A row that cannot be used.
#[derive(Debug)]
pub struct BadRow {
    /// The row.
    pub row: usize,
    /// Why it cannot be used; names the row and its file.
    pub error: Error,
}

impl Inspection {
    /// The number of rows that a thread reads at a time.
    const CHUNK: usize = 16;

    /// Reads the captions, the prompt and the picture of every row on `workers` threads. Pictures are decoded
    /// too, because only this shows that `processor` can use them. `progress` is called with the number of rows
    /// read since its last call.
    ///
    /// # Errors
    /// If the operating system cannot start a thread. A row that cannot be used is not an error: it is listed
    /// in [`bad`](Self::bad).
    pub fn new(
        source: Arc<dyn CaptionSource>,
        processor: ImageProcessor,
        workers: usize,
        progress: impl FnMut(usize),
    ) -> Result<Self> {
        let rows = 0..source.len();
        Self::of_rows(source, rows, processor, workers, progress)
    }

    /// As [`new`](Self::new), for some rows: `pictures` has those of these rows, in the given order.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_rows(
        source: Arc<dyn CaptionSource>,
        rows: impl IntoIterator<Item = usize, IntoIter: Clone + Send + 'static>,
        processor: ImageProcessor,
        workers: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let rows = rows.into_iter();
        let mut numbers = rows.clone();
        let mut rest = rows;
        let chunks = std::iter::from_fn(move || {
            let chunk: Vec<usize> = rest.by_ref().take(Self::CHUNK).collect();
            (!chunk.is_empty()).then_some(chunk)
        });
        let read = move |rows: Vec<usize>| {
            Ok(rows.into_iter().map(|row| picture(&*source, &processor, row)).collect())
        };
        let chunks: Prefetch<Vec<Result<u128>>> = Prefetch::new(chunks, workers, 2 * workers, read)?;
        let (mut pictures, mut bad) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let chunk = chunk?;
            progress(chunk.len());
            for (picture, row) in chunk.into_iter().zip(numbers.by_ref()) {
                pictures.push(picture.map_err(|error| bad.push(BadRow { row, error })).ok());
            }
        }
        Ok(Self { pictures, bad })
    }

    /// The rows that can be used.
    pub fn usable(&self) -> Vec<usize> {
        (0..self.pictures.len()).filter(|row| self.pictures[*row].is_some()).collect()
    }
}

/// Reads a whole row; returns the fingerprint of its picture.
fn picture(source: &dyn CaptionSource, processor: &ImageProcessor, row: usize) -> Result<u128> {
    source.captions(row)?;
    source.prompt(row)?;
    processor.check(&source.image(row)?).map_err(row_of(source.name(), row))?;
    source.fingerprint(row)
}
