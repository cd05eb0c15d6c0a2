use std::collections::HashMap;

use image_pixels::RgbImage;

use crate::{CaptionSource, Error, LeftOut, Result};

/// Groups the rows of another dataset by picture: rows with the same picture and the same prompt become one
/// row with all of their captions. Groups are numbered from 0, in the order in which they first occur.
#[derive(Debug, Clone)]
pub struct ByPicture<S> {
    source: S,
    /// The rows of the other dataset in each group.
    rows: Vec<Vec<usize>>,
    len: usize,
}

impl<S: CaptionSource> ByPicture<S> {
    /// `pictures` holds a number for each row of `source`. Rows of the same picture have the same number, for
    /// instance its [`fingerprint`](CaptionSource::fingerprint).
    ///
    /// # Errors
    /// If a prompt cannot be read.
    pub fn new(source: S, pictures: &[u128]) -> Result<Self> {
        let mut places = HashMap::new();
        let mut rows: Vec<Vec<usize>> = Vec::new();
        for (row, picture) in pictures.iter().enumerate() {
            let place = *places.entry((picture, source.prompt(row)?)).or_insert(rows.len());
            if place == rows.len() {
                rows.push(Vec::new());
            }
            rows[place].push(row);
        }
        Ok(Self { source, rows, len: pictures.len() })
    }

    /// The first row of each group, as a row of the other dataset.
    pub fn first_rows(&self) -> Vec<usize> {
        self.rows.iter().map(|rows| rows[0]).collect()
    }

    fn rows(&self, row: usize) -> Result<&[usize]> {
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.rows.len() };
        self.rows.get(row).map(Vec::as_slice).ok_or_else(missing)
    }

    fn first(&self, row: usize) -> Result<usize> {
        Ok(self.rows(row)?[0])
    }
}

impl<S: CaptionSource> CaptionSource for ByPicture<S> {
    fn name(&self) -> String {
        match self.len - self.rows.len() {
            0 => self.source.name(),
            _ => format!("{}, {} rows by picture", self.source.name(), self.len),
        }
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        self.source.caption(self.first(row)?)
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        let captions = self.rows(row)?.iter().map(|row| self.source.captions(*row));
        Ok(captions.collect::<Result<Vec<_>>>()?.concat())
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        self.source.prompt(self.first(row)?)
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        self.source.image(self.first(row)?)
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        self.source.fingerprint(self.first(row)?)
    }

    fn class_names(&self) -> Option<Vec<String>> {
        self.source.class_names()
    }

    fn left_out(&self) -> LeftOut {
        self.source.left_out()
    }
}
