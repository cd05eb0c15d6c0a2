use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use candle_core::{Device, Tensor};
use tempfile::TempPath;

use super::folder;
use super::place::CachePlace;
use super::segment::{Layout, Segment};

/// Number of pictures in a cached file. After an interruption, fewer than this many have to be encoded again.
const PICTURES: usize = 256;

/// Features in files, looked up by picture.
#[derive(Default)]
pub(super) struct Files {
    segments: Vec<Segment>,
    /// The segment that a picture is in, and its index there.
    slots: BTreeMap<u128, (usize, usize)>,
    /// Bytes of files in the folder that this run does not use.
    unneeded: u64,
    /// Dropped after the segment that reads it.
    _temporary: Option<TempPath>,
}

impl Files {
    /// Finds the features of the `wanted` pictures that earlier runs cached, and verifies the checksum of
    /// each. Also returns a message for each damaged entry, which is treated as missing.
    pub(super) fn open(
        place: &CachePlace,
        layout: Layout,
        wanted: &BTreeSet<u128>,
    ) -> Result<(Self, Vec<String>)> {
        let Some((dir, encoder)) = &place.between_runs else { return Ok(Default::default()) };
        let (found, mut damaged) = folder::open(dir, layout, *encoder)?;
        let mut slots = BTreeMap::new();
        let (mut broken, mut used) = (BTreeSet::new(), BTreeSet::new());
        for (number, (path, segment)) in found.iter().enumerate() {
            for (index, picture) in segment.pictures().iter().enumerate() {
                if !wanted.contains(picture) || slots.contains_key(picture) {
                    continue;
                }
                if segment.is_intact(index) {
                    slots.insert(*picture, (number, index));
                    used.insert(path.clone());
                } else {
                    broken.insert(*picture);
                }
            }
        }
        // A later file may have an undamaged copy.
        broken.retain(|picture| !slots.contains_key(picture));
        if !broken.is_empty() {
            damaged.push(format!("{} of the image features in {} are damaged", broken.len(), dir.display()));
        }
        let unneeded = folder::mark_used(dir, &used);
        let segments = found.into_iter().map(|(_, segment)| segment).collect();
        Ok((Self { segments, slots, unneeded, _temporary: None }, damaged))
    }

    pub(super) fn unneeded(&self) -> u64 {
        self.unneeded
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn contains(&self, picture: u128) -> bool {
        self.slots.contains_key(&picture)
    }

    /// Writes the features of more pictures. `features` has them in the same order.
    pub(super) fn add(
        &mut self,
        place: &CachePlace,
        layout: Layout,
        pictures: &[u128],
        features: &mut impl Iterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        match &place.between_runs {
            Some((dir, encoder)) => {
                for pictures in pictures.chunks(PICTURES) {
                    self.push(folder::write(dir, layout, *encoder, pictures, features)?);
                }
            }
            None => {
                let (segment, path) = folder::write_temporary(&place.scratch, layout, pictures, features)?;
                self.push(segment);
                self._temporary = Some(path);
            }
        }
        Ok(())
    }

    fn push(&mut self, mut segment: Segment) {
        let number = self.segments.len();
        if number >= folder::MOST_OPEN {
            segment.close();
        }
        self.slots.extend(
            segment.pictures().iter().enumerate().map(|(index, picture)| (*picture, (number, index))),
        );
        self.segments.push(segment);
    }

    /// The features of one picture, `(tokens, width)`; `None` if no file has them.
    pub(super) fn features(&self, picture: u128, device: &Device) -> Result<Option<Tensor>> {
        let Some((segment, index)) = self.slots.get(&picture) else { return Ok(None) };
        Ok(Some(self.segments[*segment].features(*index, device)?))
    }

    /// Reads all features into memory.
    pub(super) fn into_memory(self, device: &Device) -> Result<BTreeMap<u128, Tensor>> {
        let segments = &self.segments;
        let read = |(picture, (segment, index)): (u128, (usize, usize))| {
            Ok((picture, segments[segment].features(index, device)?))
        };
        self.slots.into_iter().map(read).collect()
    }
}
