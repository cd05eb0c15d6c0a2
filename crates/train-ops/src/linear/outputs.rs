//! A part of a frozen layer's outputs as a layer of its own.

use std::ops::Range;
use std::sync::Arc;

use super::frozen::Weight;
use super::{FrozenLinear, PackedWeight};
use crate::Result;

impl FrozenLinear {
    /// The layer with only some of the outputs, which shares the memory of the weight: the query of a projection to query, key
    /// and value, for instance. `None` if the weight is not packed in host memory, is int8, or its panels do not begin and end
    /// with these outputs. Panels have at most 32 outputs ([`Isa::panel_width`](cpu_kernels::Isa::panel_width)), so multiples of 32
    /// always fit.
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

    /// Whether both layers read the same packed weight: clones of each other, with whatever biases.
    pub fn shares_weight(&self, other: &Self) -> bool {
        match (&self.weight, &other.weight) {
            (Weight::Packed(one), Weight::Packed(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
