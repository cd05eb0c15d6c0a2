//! Frozen layers whose weights are int8.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use cpu_kernels::{MAX_INT8_ROW, PackedMatrix, Precision};

use super::frozen::Weight;
use super::{FrozenLinear, PackedWeight};
use crate::{Error, Result};

impl FrozenLinear {
    /// As [`new`](Self::new) and [`to_int8`](Self::to_int8).
    ///
    /// # Errors
    /// As of these.
    pub fn quantised(path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let weight = if weight.device().is_cpu() { weight.to_dtype(DType::F32)? } else { weight };
        Self::new(path, weight, bias)?.to_int8()
    }

    /// The layer with an int8 weight and a scale for each of its rows, which is the row's largest magnitude / 127.
    /// The error of a weight is at most half a scale. Activations and sums are f32. The weight takes a quarter
    /// of the memory of f32, and memory bandwidth limits decoding. A layer that is int8 already is returned
    /// unchanged.
    ///
    /// # Errors
    /// If the weight is not on the CPU.
    pub fn to_int8(&self) -> Result<Self> {
        if self.is_int8() {
            return Ok(self.clone());
        }
        let weight = PackedWeight::new(self.quantised_weight()?);
        Ok(Self { weight: Weight::Packed(Arc::new(weight)), ..self.clone() })
    }

    /// The layer with an int8 weight as in [`to_int8`](Self::to_int8), and with integer products in both
    /// passes: for training, which is limited by arithmetic. With `W = t q`, `t` the scales of the weight's
    /// rows,
    ///
    /// ```text
    /// y = s (round(x / s) qᵀ) t + b        dx = s' (round(dy t / s') q)
    /// ```
    ///
    /// where `s` and `s'` are scales of each row of `x` and `dy t`
    /// ([`QuantisedRows`](cpu_kernels::QuantisedRows)). So the backward pass uses the same integers, and its
    /// result is that of the quantised weight except for the rounding of `dy t`. Sums are exact, and adapters
    /// are f32.
    ///
    /// # Errors
    /// If the weight is not on the CPU, or has more than [`MAX_INT8_ROW`] rows or columns.
    pub fn to_int8_products(&self) -> Result<Self> {
        let most = self.in_features.max(self.out_features);
        if most > MAX_INT8_ROW {
            return Err(Error::Int8Size { path: self.path.clone(), features: most, limit: MAX_INT8_ROW });
        }
        let weight = PackedWeight::for_int8_products(self.quantised_weight()?);
        Ok(Self { weight: Weight::Packed(Arc::new(weight)), ..self.clone() })
    }

    /// A layer with another weight and bias. The weight is stored and multiplied in the same way as that of
    /// this layer.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if this layer is int8 and the weight is not on the CPU.
    pub fn with_weight(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let layer = Self::new(&self.path, weight.to_dtype(self.dtype())?, bias)?;
        match &self.weight {
            Weight::Packed(packed) if packed.quantises_rows() => layer.to_int8_products(),
            Weight::Packed(_) if self.is_int8() => layer.to_int8(),
            _ => Ok(layer),
        }
    }

    fn is_int8(&self) -> bool {
        matches!(&self.weight, Weight::Packed(packed) if packed.forward.precision() == Precision::Int8)
    }

    fn quantised_weight(&self) -> Result<PackedMatrix> {
        let weight = match &self.weight {
            Weight::Packed(packed) => return Ok(packed.forward.quantised()),
            Weight::Plain(weight) => weight,
        };
        let packed = match weight.device().is_cpu() {
            true => PackedWeight::from_tensor(&weight.to_dtype(DType::F32)?)?,
            false => None,
        };
        Ok(packed.ok_or_else(|| self.int8_error(weight))?.forward.quantised())
    }

    fn int8_error(&self, tensor: &Tensor) -> Error {
        let device = format!("{:?}", tensor.device().location());
        Error::Int8 { path: self.path.clone(), dtype: tensor.dtype(), device }
    }

    /// Refuses activations without a kernel if the weight is int8.
    pub(crate) fn refuse_int8(&self, xs: &Tensor) -> Result<()> {
        if self.is_int8() { Err(self.int8_error(xs)) } else { Ok(()) }
    }
}
