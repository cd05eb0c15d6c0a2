use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::layer::merged_layer;
use crate::state::State;
use crate::{Adapter, Adapters, Error, Result};

impl Adapters {
    /// Merges the active adapters into the weights of their layers, so that inference costs no more than with the base model.
    ///
    /// Embeddings and convolutions still compute their updates.
    ///
    /// The sums are computed in f32 and stored in the base's type. The original weights are kept, so that
    /// [`unmerge`](Self::unmerge) is exact; the merged weights take additional memory. All sums are computed
    /// and checked before the first layer changes.
    ///
    /// # Errors
    /// [`Error::AlreadyMerged`], and [`Error::NotFinite`] if a sum is not finite; nothing has changed then.
    pub fn merge(&self) -> Result<()> {
        self.set.state.current.update(|state| {
            if state.merged.is_some() {
                return Err(Error::AlreadyMerged);
            }
            let mut merged = BTreeMap::new();
            for name in &state.active {
                for (path, layer) in &state.adapter(name)?.layers {
                    if !merged.contains_key(path) {
                        merged.insert(path.clone(), merged_layer(&layer.base, state)?);
                    }
                }
            }
            Ok(State { merged: Some(Arc::new(merged)), ..state.clone() })
        })
    }

    /// Undoes [`merge`](Self::merge), exactly.
    ///
    /// # Errors
    /// [`Error::NotMerged`].
    pub fn unmerge(&self) -> Result<()> {
        self.set.state.current.update(|state| match state.merged {
            None => Err(Error::NotMerged),
            Some(_) => Ok(State { merged: None, ..state.clone() }),
        })
    }

    /// Whether adapters are merged into the base.
    pub fn is_merged(&self) -> bool {
        self.set.state.current.get().merged.is_some()
    }
}

impl Adapter {
    /// [`Adapters::merge`]: merges the active adapters of the model, of which this is one unless another was activated.
    ///
    /// # Errors
    /// [`Error::AlreadyMerged`], and [`Error::NotFinite`] if a sum is not finite; nothing has changed then.
    pub fn merge(&self) -> Result<()> {
        self.adapters().merge()
    }

    /// Undoes [`merge`](Self::merge), exactly.
    ///
    /// # Errors
    /// [`Error::NotMerged`].
    pub fn unmerge(&self) -> Result<()> {
        self.adapters().unmerge()
    }

    /// Whether adapters are merged into the base.
    pub fn is_merged(&self) -> bool {
        self.adapters().is_merged()
    }

    /// The relative change of each layer's weight, `‖ΔW‖ / ‖W‖` (Frobenius), by path. All are 0 for an
    /// adapter that was not trained.
    pub fn effect(&self) -> Result<BTreeMap<String, f64>> {
        self.layers()
            .map(|layer| {
                let delta = norm(&layer.delta_weight()?)?;
                let ratio = if delta == 0.0 { 0.0 } else { delta / norm(&layer.base().weight()?)? };
                Ok((layer.path().to_owned(), ratio))
            })
            .collect()
    }
}

fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(f64::from(tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt()))
}
