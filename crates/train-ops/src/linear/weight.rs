use std::sync::OnceLock;

use candle_core::{CpuStorage, Storage, Tensor};
use cpu_kernels::{Init, Operand, PackedMatrix, Precision, QuantisedRows, Rows, Term, int8_product, product};

use crate::{Result, host};

/// A weight packed for the forward pass, and for the backward pass when that runs for the first time.
#[derive(Debug)]
pub(crate) struct PackedWeight {
    /// `Wᵀ`, `(in_features, out_features)`.
    pub(crate) forward: PackedMatrix,
    backward: OnceLock<PackedMatrix>,
    /// Whether the rows that an int8 weight is multiplied by are quantised as well.
    quantises_rows: bool,
}

/// Rows in the format that a weight needs.
pub(crate) enum LayerInput<'a> {
    Float(Operand<'a>),
    Int8(QuantisedRows),
}

impl PackedWeight {
    pub(super) fn new(forward: PackedMatrix) -> Self {
        Self { forward, backward: OnceLock::new(), quantises_rows: false }
    }

    /// An int8 weight for products of integers.
    pub(super) fn for_int8_products(forward: PackedMatrix) -> Self {
        Self { quantises_rows: true, ..Self::new(forward) }
    }

    /// Packs a contiguous weight `(out_features, in_features)` in f32 or bf16 in host memory; `None` for another.
    pub(super) fn from_tensor(weight: &Tensor) -> Result<Option<Self>> {
        let (storage, layout) = weight.storage_and_layout();
        let (Some((start, _)), &[n, k]) = (layout.contiguous_offsets(), layout.dims()) else {
            return Ok(None);
        };
        let forward = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => {
                PackedMatrix::new(host::isa()?, Precision::F32, k, n, |row, column| {
                    data[start + column * k + row]
                })
            }
            Storage::Cpu(CpuStorage::BF16(data)) => {
                PackedMatrix::new(host::isa()?, Precision::Bf16, k, n, |row, column| {
                    data[start + column * k + row].to_f32()
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(Self::new(forward)))
    }

    /// Whether products with the weight are those of [`FrozenLinear::to_int8_products`](super::FrozenLinear::to_int8_products).
    pub(super) fn quantises_rows(&self) -> bool {
        self.quantises_rows
    }

    /// The rows of an input in the format that the weight needs: once for all weights of one precision.
    pub(crate) fn input<'a>(&self, xs: Rows<'a>) -> LayerInput<'a> {
        match self.quantises_rows {
            true => LayerInput::Int8(QuantisedRows::new(xs, None, &self.forward)),
            false => LayerInput::Float(Operand::new(xs, &self.forward)),
        }
    }

    /// Whether an input has the format that the weight needs.
    pub(super) fn takes(&self, input: &LayerInput<'_>) -> bool {
        match input {
            LayerInput::Float(operand) => !self.quantises_rows && operand.fits(&self.forward),
            LayerInput::Int8(rows) => self.quantises_rows && rows.fits(&self.forward),
        }
    }

    /// `dx = init + dy W`, plus `through_adapter`. `plain` are the rows of `dys` for f32 matrices, if there are such already.
    pub(crate) fn sum_backward(
        &self,
        (dxs, init): (&mut [f32], Init<'_>),
        dys: Rows<'_>,
        plain: Option<&Operand<'_>>,
        through_adapter: Option<Term<'_>>,
    ) {
        let (weight, in_features) = (self.backward(), self.forward.k());
        if self.quantises_rows {
            // W = s q with a scale for each of its rows: dx = (s dy) q, with the integers of the forward pass.
            let rows = QuantisedRows::new(dys, Some(self.forward.scales()), weight);
            int8_product(dxs, in_features, init, (&rows, weight), through_adapter);
            return;
        }
        let converted;
        let operand = match plain {
            Some(plain) if weight.precision() == Precision::F32 => plain,
            _ => {
                converted = Operand::new(dys, weight);
                &converted
            }
        };
        let first = Term::new(operand, weight);
        match through_adapter {
            Some(term) => product(dxs, in_features, init, &[first, term]),
            None => product(dxs, in_features, init, &[first]),
        }
    }

    /// `W`, `(out_features, in_features)`; without the scales of its rows where they are quantised.
    fn backward(&self) -> &PackedMatrix {
        // Packed without holding the lock: a thread that waits for a part of the packing may steal a task that
        // needs the packed weight too.
        self.backward.get().unwrap_or_else(|| {
            let packed = match self.quantises_rows {
                true => self.forward.transposed_integers(),
                false => self.forward.transposed(),
            };
            self.backward.get_or_init(|| packed)
        })
    }
}
