use std::sync::Arc;

use crate::{Error, Result};

/// The number of real keys of each sample in a padded batch. Padding follows them, and no query attends to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLengths(Arc<[usize]>);

impl KeyLengths {
    /// One number for each sample, each at least 1.
    pub fn new(lengths: impl Into<Arc<[usize]>>) -> Self {
        Self(lengths.into())
    }

    /// The number of real keys of a sample.
    pub(super) fn of(&self, sample: usize) -> usize {
        self.0[sample]
    }

    /// Checks that there is a number for each of `batch` samples, and that none is larger than `keys`.
    pub(super) fn check(&self, batch: usize, keys: usize) -> Result<()> {
        if self.0.len() == batch && self.0.iter().all(|length| (1..=keys).contains(length)) {
            return Ok(());
        }
        Err(Error::Shape {
            path: "attention's key lengths".to_owned(),
            expected: format!("({batch}), each from 1 to {keys}"),
            got: self.0.to_vec(),
        })
    }
}
