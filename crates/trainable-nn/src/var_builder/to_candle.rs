//! The way back to candle-nn's own `VarBuilder`.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;

use super::{SimpleBackend, VarBuilder};

impl<'a> VarBuilder<'a> {
    /// A candle-nn `VarBuilder` at the same prefix, for candle-nn's own constructors. Its tensors are those of this one, made by the
    /// same [`LayerBuilder`](crate::LayerBuilder).
    pub fn to_candle(&self) -> candle_nn::VarBuilder<'a> {
        let weights: Box<dyn SimpleBackend + 'a> = Box::new(Tensors(self.root()));
        let root = candle_nn::VarBuilder::from_backend(weights, self.dtype(), self.device().clone());
        let prefix = self.prefix();
        if prefix.is_empty() { root } else { root.set_prefix(prefix) }
    }
}

/// Tensors for candle-nn's own constructors.
struct Tensors<'a>(VarBuilder<'a>);

impl SimpleBackend for Tensors<'_> {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.get_with_hints_dtype(shape, name, init, dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.get_unchecked_dtype(name, dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}
