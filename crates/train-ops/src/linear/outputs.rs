//! A range of a frozen layer's outputs as a separate layer.

use std::ops::Range;
use std::sync::Arc;

use super::frozen::Weight;
use super::{FrozenLinear, PackedWeight};
use crate::Result;

impl FrozenLinear {
    /// The layer with only a range of the outputs, for instance the query of a projection to query, key and
    /// value. It shares the memory of the weight. `None` if the weight is not packed in host memory or is int8,
    /// or if the range does not begin and end at panels of the weight. Panels have at most 32 outputs
    /// ([`Isa::panel_width`](cpu_kernels::Isa::panel_width)), so multiples of 32 always fit.
    ///
    /// # Errors
    /// If the bias cannot be read.
    ///
    /// # Panics
    /// If the layer has no such outputs.
    pub fn outputs(&self, outputs: Range<usize>) -> Result<Option<Self>> {
        let Weight::Packed(packed) = &self.weight else { return Ok(None) };
        let Some(columns) = packed.forward.columns(outputs.clone()) else { return Ok(None) };
        let bias = self.bias().map(|bias| bias.narrow(0, outputs.start, outputs.len())?.contiguous());
        let weight = Weight::Packed(Arc::new(PackedWeight::new(columns)));
        let layer = Self { weight, out_features: outputs.len(), ..self.clone() };
        layer.with_bias(bias.transpose()?).map(Some)
    }

    /// Whether both layers read the same packed weight, as clones do; their biases may differ.
    pub fn shares_weight(&self, other: &Self) -> bool {
        match (&self.weight, &other.weight) {
            (Weight::Packed(one), Weight::Packed(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
