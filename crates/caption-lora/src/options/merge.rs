use std::path::PathBuf;

use candle_core::DType;

use super::names::names;
use crate::hub::Location;

/// The options of merging a LoRA adapter into its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The checkpoint.
    pub model: Location,
    /// The adapter.
    pub adapter: Location,
    /// Folder for the merged checkpoint, a new or an empty one.
    pub output_dir: PathBuf,
    /// Storage type of the weights; `None` for that of the checkpoint. Sums are computed in f32 in any case.
    pub dtype: Option<FileDtype>,
}

/// The type in which a merged checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDtype {
    /// 32 bits.
    F32,
    /// bfloat16: 16 bits, with the range of f32.
    Bf16,
    /// 16 bits, with numbers up to 65,504.
    F16,
}

names!(FileDtype { F32 => "f32", Bf16 => "bf16", F16 => "f16" });

impl From<FileDtype> for DType {
    fn from(dtype: FileDtype) -> Self {
        match dtype {
            FileDtype::F32 => Self::F32,
            FileDtype::Bf16 => Self::BF16,
            FileDtype::F16 => Self::F16,
        }
    }
}
