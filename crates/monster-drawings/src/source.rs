use image::RgbImage;

use crate::caption::Style;
use crate::monster::Monster;
use caption_data::{CaptionSource, Error, Result};

/// A dataset of drawn monsters, generated while it is read.
///
/// A row depends only on the seed and the row's number, so two sources that differ only in length have the same
/// rows up to the shorter length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawingSource {
    seed: u64,
    rows: usize,
    style: Style,
    size: u32,
}

impl DrawingSource {
    /// `rows` monsters with captions in the given style, in pictures of `size` x `size` pixels.
    pub fn new(seed: u64, rows: usize, style: Style, size: u32) -> Self {
        Self { seed, rows, style, size }
    }

    /// The monster of a row.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn monster(&self, row: usize) -> Result<Monster> {
        if row < self.rows {
            Ok(Monster::new(self.seed, row as u64))
        } else {
            Err(Error::RowOutOfRange { dataset: self.name(), row, len: self.rows })
        }
    }
}

/// The dataset to fine-tune on: 700 monsters with captions in the second style, in pictures of 256 x 256
/// pixels.
impl Default for DrawingSource {
    fn default() -> Self {
        Self::new(0, 700, Style::Second, 256)
    }
}

impl CaptionSource for DrawingSource {
    fn name(&self) -> String {
        format!("drawings of monsters, made from seed {}", self.seed)
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn caption(&self, row: usize) -> Result<String> {
        Ok(self.monster(row)?.caption(self.style))
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        Ok(self.monster(row)?.draw(self.size))
    }
}
