use std::sync::OnceLock;

use candle_core::{CpuStorage, Storage, Tensor};
use cpu_kernels::{PackedMatrix, Precision};

use crate::{Result, host};

/// A weight packed for the forward pass, and for the backward pass when that is first run.
#[derive(Debug)]
pub(crate) struct PackedWeight {
    /// `Wᵀ`, `(in_features, out_features)`.
    pub(crate) forward: PackedMatrix,
    backward: OnceLock<PackedMatrix>,
}

impl PackedWeight {
    pub(super) fn new(forward: PackedMatrix) -> Self {
        Self { forward, backward: OnceLock::new() }
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

    /// `W`, `(out_features, in_features)`.
    pub(crate) fn backward(&self) -> &PackedMatrix {
        // Packed outside of the lock: a thread that waits for a part of the packing may steal a task that needs it too.
        self.backward.get().unwrap_or_else(|| {
            let packed = self.forward.transposed();
            self.backward.get_or_init(|| packed)
        })
    }
}
