use std::sync::Arc;

use image_pixels::RgbImage;
use twox_hash::XxHash3_128;

use crate::{CaptionSource, Error, LeftOut, Result, Shard};

/// Several datasets one after another, as one: the rows of the second follow those of the first.
#[derive(Clone)]
pub struct Concat {
    parts: Vec<Arc<dyn CaptionSource>>,
    /// For each part, the number of rows up to its last one.
    ends: Vec<usize>,
}

impl Concat {
    /// The datasets in this order.
    pub fn new(parts: Vec<Arc<dyn CaptionSource>>) -> Self {
        let mut end = 0;
        let ends = parts.iter().map(|part| {
            end += part.len();
            end
        });
        Self { ends: ends.collect(), parts }
    }

    /// The dataset of a row, and the row's number in it.
    fn part(&self, row: usize) -> Result<(&dyn CaptionSource, usize)> {
        let part = self.ends.partition_point(|end| *end <= row);
        let first = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.len() };
        let source = self.parts.get(part).ok_or_else(missing)?;
        Ok((source.as_ref(), row - first))
    }
}

impl std::fmt::Debug for Concat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Concat").field("name", &self.name()).field("ends", &self.ends).finish()
    }
}

/// An error about a row uses its number in its own dataset, where it can be looked up.
impl CaptionSource for Concat {
    fn name(&self) -> String {
        self.parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(" + ")
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn caption(&self, row: usize) -> Result<String> {
        let (source, row) = self.part(row)?;
        source.caption(row)
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        let (source, row) = self.part(row)?;
        source.captions(row)
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        let (source, row) = self.part(row)?;
        source.prompt(row)
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        let (source, row) = self.part(row)?;
        source.image(row)
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        let (source, row) = self.part(row)?;
        source.fingerprint(row)
    }

    fn class_names(&self) -> Option<Vec<String>> {
        self.parts.first()?.class_names()
    }

    fn left_out(&self) -> LeftOut {
        let mut left_out = LeftOut::default();
        self.parts.iter().for_each(|part| left_out.extend(part.left_out()));
        left_out
    }

    /// The shards of the parts. If some parts have shards, a part without shards counts as one shard of size 0.
    fn shards(&self) -> Vec<Shard> {
        let shards: Vec<Vec<Shard>> = self.parts.iter().map(|part| part.shards()).collect();
        if shards.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        let of_part = |(part, shards): (&Arc<dyn CaptionSource>, Vec<Shard>)| match shards.is_empty() {
            true => vec![Shard { rows: part.len(), bytes: 0 }],
            false => shards,
        };
        self.parts.iter().zip(shards).flat_map(of_part).collect()
    }

    fn content(&self) -> Option<u128> {
        let contents: Vec<u128> = self.parts.iter().map(|part| part.content()).collect::<Option<_>>()?;
        let bytes: Vec<u8> = contents.iter().flat_map(|content| content.to_le_bytes()).collect();
        Some(XxHash3_128::oneshot(&bytes))
    }
}
