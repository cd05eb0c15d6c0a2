use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use train_ops::FrozenLinear;

use crate::{Adapter, Error, Result};

impl Adapter {
    /// Merges every update into its layer's weight, `W + s B A`, so that inference costs no more than with
    /// the base model.
    ///
    /// The sums are computed in f32 and stored in the base's type. The original weights are kept, so that
    /// [`unmerge`](Self::unmerge) is exact; this takes the memory of the merged weights once more. All sums
    /// are computed and checked before the first layer changes.
    ///
    /// # Errors
    /// [`Error::AlreadyMerged`], and [`Error::NotFinite`] if a sum is not finite; nothing has changed then.
    pub fn merge(&self) -> Result<()> {
        if self.is_merged() {
            return Err(Error::AlreadyMerged);
        }
        let merged = self
            .layers()
            .map(|layer| {
                let bias = layer.base().bias().cloned();
                Ok((layer, FrozenLinear::new(layer.path(), layer.merged_weight()?, bias)?))
            })
            .collect::<Result<Vec<_>>>()?;
        for (layer, merged) in merged {
            layer.set_merged(Some(merged));
        }
        Ok(())
    }

    /// Undoes [`merge`](Self::merge), exactly.
    ///
    /// # Errors
    /// [`Error::NotMerged`].
    pub fn unmerge(&self) -> Result<()> {
        if !self.is_merged() {
            return Err(Error::NotMerged);
        }
        self.layers().for_each(|layer| layer.set_merged(None));
        Ok(())
    }

    /// Whether the adapter is merged into the base.
    pub fn is_merged(&self) -> bool {
        self.layers().any(|layer| layer.merged().is_some())
    }

    /// The merged weights by their names in the base's checkpoint, `PATH.weight`, each computed when the
    /// iterator reaches it. Together with the checkpoint's other tensors they are a model without an adapter.
    pub fn merged_weights(&self) -> impl Iterator<Item = Result<(String, Tensor)>> {
        self.layers().map(|layer| Ok((format!("{}.weight", layer.path()), layer.merged_weight()?)))
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
