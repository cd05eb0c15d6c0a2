use image_pixels::RgbImage;
use twox_hash::XxHash3_128;

use crate::{CaptionSource, Error, LeftOut, Result, Shard};

/// Chosen rows of another dataset, renumbered from 0.
///
/// Errors about a row use its number in the whole dataset, where it can be looked up.
#[derive(Debug, Clone)]
pub struct Subset<S> {
    source: S,
    rows: Vec<usize>,
}

impl<S: CaptionSource> Subset<S> {
    /// The given rows, in the given order.
    ///
    /// # Errors
    /// If a row does not exist.
    pub fn new(source: S, rows: Vec<usize>) -> Result<Self> {
        match rows.iter().find(|row| **row >= source.len()) {
            Some(&row) => Err(Error::RowOutOfRange { dataset: source.name(), row, len: source.len() }),
            None => Ok(Self { source, rows }),
        }
    }

    /// The first `count` rows, or all if there are fewer.
    pub fn first(source: S, count: usize) -> Self {
        let rows = (0..count.min(source.len())).collect();
        Self { source, rows }
    }

    fn row(&self, row: usize) -> Result<usize> {
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.rows.len() };
        self.rows.get(row).copied().ok_or_else(missing)
    }
}

impl<S: CaptionSource> CaptionSource for Subset<S> {
    fn name(&self) -> String {
        if self.rows.len() == self.source.len() {
            return self.source.name();
        }
        format!("{} ({} of {} rows)", self.source.name(), self.rows.len(), self.source.len())
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        self.source.caption(self.row(row)?)
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        self.source.captions(self.row(row)?)
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        self.source.prompt(self.row(row)?)
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        self.source.image(self.row(row)?)
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        self.source.fingerprint(self.row(row)?)
    }

    fn class_names(&self) -> Option<Vec<String>> {
        self.source.class_names()
    }

    fn left_out(&self) -> LeftOut {
        self.source.left_out()
    }

    /// The other dataset's shards, restricted to the chosen rows. Empty if the rows are not in ascending order.
    fn shards(&self) -> Vec<Shard> {
        if !self.rows.is_sorted() {
            return Vec::new();
        }
        let mut rest = self.rows.as_slice();
        let mut end = 0;
        let shards = self.source.shards().into_iter().map(|shard| {
            end += shard.rows;
            let rows = rest.partition_point(|row| *row < end);
            rest = &rest[rows..];
            Shard { rows, ..shard }
        });
        shards.filter(|shard| shard.rows > 0).collect()
    }

    fn content(&self) -> Option<u128> {
        let rows =
            XxHash3_128::oneshot(&self.rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>());
        Some(self.source.content()? ^ rows)
    }
}
