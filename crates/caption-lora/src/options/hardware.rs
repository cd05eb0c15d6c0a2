use std::path::PathBuf;

use candle_core::DType;

use super::DeviceName;
use super::names::names;

/// Hardware and precision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hardware {
    /// The device. Default: the CPU. Of several processes on a machine, each takes the next GPU from this one on, if there is one.
    pub device: DeviceName,
    /// Type of the frozen weights and of their arithmetic. Default: f32.
    pub dtype: Dtype,
    /// Processor threads. Default: `RAYON_NUM_THREADS`, or all cores, divided among the processes of a job.
    pub threads: Option<usize>,
    /// Whether the process trains together with the others of its job. Default: if it was launched as one of several.
    pub distributed: Option<Distributed>,
    /// Gradient checkpointing: only the input of each trained layer is saved, and the layer runs again in the backward pass:
    /// the same gradients with less memory, in more time. Default: false.
    pub gradient_checkpointing: bool,
    /// Folder that caches the frozen vision encoder's image features for other runs, which then encode only new pictures.
    /// Default: none.
    pub feature_cache_dir: Option<PathBuf>,
    /// Memory for the frozen encoder's image features, in bytes. Larger features are read from files. Default: 128 MiB.
    pub feature_cache_memory: Option<usize>,
    /// Type of cached image features. Default: bf16 if those of a picture take more than 1.5 MB in f32, as BLIP's do; else
    /// [`dtype`](Self::dtype).
    pub feature_cache_dtype: Option<FeatureDtype>,
    /// Whether the frozen vision encoder runs on every picture in every epoch, without a cache. Default: false.
    pub no_feature_cache: bool,
    /// Whether the kernels of each training pass on an NVIDIA GPU are launched one after another, for debugging, in place of recorded
    /// CUDA graphs. Default: false.
    pub no_cuda_graph: bool,
}

/// Why a trained encoder's features cannot be cached, and what to do.
pub const TRAINED_ENCODER: &str = "its image features change with every step; leave the flag out";

impl Hardware {
    /// Memory for the frozen encoder's features in bytes: [`feature_cache_memory`](Self::feature_cache_memory), else 128 MiB.
    /// Reading a batch from a file takes a thousandth of a large model's step, so more memory gains nothing.
    pub fn feature_memory(&self) -> usize {
        self.feature_cache_memory.unwrap_or(128 << 20)
    }

    /// A feature cache option that was given, as a flag.
    pub fn cache_flag(&self) -> Option<&'static str> {
        let dir = self.feature_cache_dir.as_ref().map(|_| "--feature-cache-dir");
        let memory = self.feature_cache_memory.map(|_| "--feature-cache-memory");
        let dtype = self.feature_cache_dtype.map(|_| "--feature-cache-dtype");
        dir.or(memory).or(dtype).or(self.no_feature_cache.then_some("--no-feature-cache"))
    }
}

/// How a process trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distributed {
    /// Alone, even if several were launched.
    None,
    /// As one process of an MPI job.
    Mpi,
    /// As one process of an MPI job, each with an NVIDIA GPU of its own. Gradients go from GPU to GPU by NCCL, all else by MPI.
    Nccl,
}

names!(Distributed { None => "none", Mpi => "mpi", Nccl => "nccl" });

/// Storage type of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16 for the frozen weights: half the memory; adapters and optimizer stay f32.
    Bf16,
    /// 8-bit integers, multiplied as such in both passes: a quarter of the memory; adapters and optimizer stay f32.
    Int8,
}

names!(Dtype { F32 => "f32", Bf16 => "bf16", Int8 => "int8" });

/// Type of cached image features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureDtype {
    /// 32 bits: the encoder's numbers.
    F32,
    /// bfloat16: half the size.
    Bf16,
}

names!(FeatureDtype { F32 => "f32", Bf16 => "bf16" });

impl From<FeatureDtype> for DType {
    fn from(dtype: FeatureDtype) -> Self {
        match dtype {
            FeatureDtype::F32 => Self::F32,
            FeatureDtype::Bf16 => Self::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use git_model::GitConfig;

    use super::*;
    use crate::features::Layout;

    /// For 700 pictures, git-base's features of either type would be a third or more of the memory of
    /// training.
    #[test]
    fn large_features_are_cached_in_a_file_and_small_ones_in_memory() {
        let memory = Hardware::default().feature_memory();
        let bytes = |config: &GitConfig, dtype| {
            let vision = &config.vision_config;
            700 * Layout { tokens: vision.tokens(), width: vision.hidden_size, dtype }.bytes()
        };
        let embedded = GitConfig::read(&crate::embedded::checkpoint().unwrap().join("config.json")).unwrap();
        assert!(bytes(&embedded, DType::F32) <= memory);
        assert!(bytes(&GitConfig::default(), DType::BF16) > memory);
    }
}
