//! The datasets of a run: the training dataset, and those that are named as validation or test rows.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use caption_data::{CaptionSource, Concat, Split, split, split_by_picture, split_off, split_off_by_picture};

use crate::hub::Location;
use crate::open::{self, Dataset};
use crate::options::{DataOptions, HeldOut, SplitBy};

/// The rows of all datasets of a run, one after another.
pub(super) struct Parts {
    pub(super) source: Arc<dyn CaptionSource>,
    /// The number of rows of the training dataset.
    trained: usize,
    /// The number of rows of the datasets for validation and test; 0 for one that is not named.
    held_out: [usize; 2],
    /// The commits of the named datasets that are from the hub.
    pub(super) commits: [Option<String>; 2],
}

impl Parts {
    /// Appends the datasets that `--validation` and `--test` name to `source`.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub(super) fn open(source: Arc<dyn CaptionSource>, data: &DataOptions) -> Result<Self> {
        let trained = source.len();
        let mut sources = vec![source];
        let mut open = |flag: &str, part: &Option<HeldOut>| match part {
            Some(HeldOut::Dataset(location)) => {
                let Dataset { source, commit } =
                    named(location, data).with_context(|| format!("{flag} {location}"))?;
                let rows = source.len();
                sources.push(source);
                anyhow::Ok((rows, commit))
            }
            _ => Ok((0, None)),
        };
        let (validation, validation_commit) = open("--validation", &data.validation)?;
        let (test, test_commit) = open("--test", &data.test)?;
        let source = match sources.len() {
            1 => sources.remove(0),
            _ => Arc::new(Concat::new(sources)),
        };
        Ok(Self { source, trained, held_out: [validation, test], commits: [validation_commit, test_commit] })
    }

    /// Keeps only the `usable` rows, which are in ascending order.
    pub(super) fn retain(&mut self, usable: &[usize]) {
        let [validation, test] = self.ranges();
        let count = |range: Range<usize>| {
            usable.partition_point(|row| *row < range.end) - usable.partition_point(|row| *row < range.start)
        };
        (self.trained, self.held_out) = (count(0..self.trained), [count(validation), count(test)]);
    }

    /// Splits the rows. `pictures` are the fingerprints of their pictures, for a split by picture.
    ///
    /// # Errors
    /// If there are too few rows for the split.
    pub(super) fn split(
        &self,
        data: &DataOptions,
        rows: usize,
        pictures: &[u128],
    ) -> caption_data::Result<Split> {
        let seed = data.split_seed;
        let Some([validation, test]) = data.held_out() else {
            let shares = [data.split.train, data.split.validation, data.split.test];
            return match data.split_by {
                SplitBy::Row => split(rows, shares, seed),
                SplitBy::Picture => split_by_picture(pictures, shares, seed),
            };
        };
        let of = if self.held_out == [0, 0] { rows } else { self.trained };
        let count = |part: &Option<HeldOut>| part.as_ref().map_or(0, |part| part.count(of));
        let (validation, test) = (count(&validation), count(&test));
        let mut split = match data.split_by {
            SplitBy::Row => split_off(of, validation, test, seed)?,
            SplitBy::Picture => split_off_by_picture(pictures, validation, test, seed)?,
        };
        let [named_validation, named_test] = self.ranges();
        split.validation.extend(named_validation);
        split.test.extend(named_test);
        Ok(split)
    }

    /// The rows of the named datasets.
    fn ranges(&self) -> [Range<usize>; 2] {
        let [validation, test] = self.held_out;
        let first = self.trained + validation;
        [self.trained..first, first..first + test]
    }
}

/// Opens a validation or test dataset, with the same columns as the training dataset.
fn named(location: &Location, data: &DataOptions) -> Result<Dataset> {
    open::dataset_within(location, &data.source_options(), data.data_cache.map(|cache| cache.bytes))
}
