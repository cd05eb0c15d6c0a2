use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use candle_core::{Device, Tensor};
use tempfile::TempPath;

use super::folder;
use super::segment::{Layout, Segment};
use super::store::Keep;

/// Pictures in a file that is kept between runs, and so how many a run that is cut off has to encode again at most.
const PICTURES: usize = 256;

/// Features in files, by picture.
#[derive(Default)]
pub(super) struct Files {
    segments: Vec<Segment>,
    /// The segment that a picture is in, and where in it.
    places: BTreeMap<u128, (usize, usize)>,
    /// Bytes of files in the folder that this run has no use for.
    unneeded: u64,
    /// Dropped after the segment that maps it.
    _lent: Option<TempPath>,
}

impl Files {
    /// Finds what earlier runs kept of the pictures that are `wanted`, each checked against its checksum; also says what
    /// was found damaged, and is as if it were not there.
    pub(super) fn open(keep: &Keep, layout: Layout, wanted: &BTreeSet<u128>) -> Result<(Self, Vec<String>)> {
        let Some((dir, encoder)) = &keep.between_runs else { return Ok(Default::default()) };
        let (found, mut damaged) = folder::open(dir, layout, *encoder)?;
        let mut places = BTreeMap::new();
        let (mut broken, mut used) = (BTreeSet::new(), BTreeSet::new());
        for (number, (path, segment)) in found.iter().enumerate() {
            for (index, picture) in segment.pictures().iter().enumerate() {
                if !wanted.contains(picture) || places.contains_key(picture) {
                    continue;
                }
                if segment.is_intact(index) {
                    places.insert(*picture, (number, index));
                    used.insert(path.clone());
                } else {
                    broken.insert(*picture);
                }
            }
        }
        // Written again since, perhaps.
        broken.retain(|picture| !places.contains_key(picture));
        if !broken.is_empty() {
            damaged.push(format!("{} of the image features in {} are damaged", broken.len(), dir.display()));
        }
        let unneeded = folder::mark_used(dir, &used);
        let segments = found.into_iter().map(|(_, segment)| segment).collect();
        Ok((Self { segments, places, unneeded, _lent: None }, damaged))
    }

    pub(super) fn unneeded(&self) -> u64 {
        self.unneeded
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn contains(&self, picture: u128) -> bool {
        self.places.contains_key(&picture)
    }

    /// Writes the features of more pictures, which `features` has in their order.
    pub(super) fn add(
        &mut self,
        keep: &Keep,
        layout: Layout,
        pictures: &[u128],
        features: &mut impl Iterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        match &keep.between_runs {
            Some((dir, encoder)) => {
                for pictures in pictures.chunks(PICTURES) {
                    self.push(folder::keep(dir, layout, *encoder, pictures, features)?);
                }
            }
            None => {
                let (segment, path) = folder::lend(&keep.scratch, layout, pictures, features)?;
                self.push(segment);
                self._lent = Some(path);
            }
        }
        Ok(())
    }

    fn push(&mut self, segment: Segment) {
        let number = self.segments.len();
        self.places.extend(
            segment.pictures().iter().enumerate().map(|(index, picture)| (*picture, (number, index))),
        );
        self.segments.push(segment);
    }

    /// The features of one picture, `(tokens, width)`; `None` if they are in no file.
    pub(super) fn features(&self, picture: u128, device: &Device) -> Result<Option<Tensor>> {
        let Some((segment, index)) = self.places.get(&picture) else { return Ok(None) };
        Ok(Some(self.segments[*segment].features(*index, device)?))
    }

    /// All of them.
    pub(super) fn into_memory(self, device: &Device) -> Result<BTreeMap<u128, Tensor>> {
        let segments = &self.segments;
        let read = |(picture, (segment, index)): (u128, (usize, usize))| {
            Ok((picture, segments[segment].features(index, device)?))
        };
        self.places.into_iter().map(read).collect()
    }
}
