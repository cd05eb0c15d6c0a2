use candle_core::Tensor;
use trainer_core::BoxError;

use super::FeatureStore;

/// The image features of a forward pass.
#[derive(Clone)]
pub enum PassFeatures<'a> {
    /// `(batch, tokens, width)`, f32.
    Given(Tensor),
    /// Those of some rows of a dataset.
    Stored(&'a FeatureStore, &'a [usize]),
}

impl PassFeatures<'_> {
    /// The features.
    ///
    /// # Errors
    /// If a row has none.
    pub fn get(&self) -> Result<Tensor, BoxError> {
        match self {
            Self::Given(features) => Ok(features.clone()),
            Self::Stored(store, rows) => Ok(store.batch(rows)?),
        }
    }

    /// The features in memory that nothing else has.
    ///
    /// # Errors
    /// If a row has none.
    pub fn copied(&self) -> Result<Tensor, BoxError> {
        // A batch of one row may have the memory of the store.
        Ok(self.get()?.force_contiguous()?)
    }

    /// Writes the features to a tensor of their shape and type.
    ///
    /// # Errors
    /// If a row has none, or the tensor has another shape or type.
    pub fn write(&self, to: &Tensor) -> Result<(), BoxError> {
        match self {
            Self::Given(features) => Ok(to.slice_set(&features.contiguous()?, 0, 0)?),
            Self::Stored(store, rows) => Ok(store.write_batch(rows, to)?),
        }
    }
}
