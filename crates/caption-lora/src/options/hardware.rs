use std::path::PathBuf;

use candle_core::DType;

use super::DeviceName;
use super::names::names;

/// Hardware and precision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hardware {
    /// The device. Default: the CPU. If several processes run on a machine, each takes the next GPU, beginning
    /// with this one.
    pub device: DeviceName,
    /// Type of the frozen weights and of the computations with them. Default: f32.
    pub dtype: Dtype,
    /// Processor threads. Default: `RAYON_NUM_THREADS`, or all cores, divided among the processes of a job.
    pub threads: Option<usize>,
    /// Whether the process trains together with the others of its job, and how they communicate. Default:
    /// [`Distributed::Mpi`] if it was launched as one of several.
    pub distributed: Option<Distributed>,
    /// Gradient checkpointing: only the input of each trained layer is saved, and the layer runs again in the
    /// backward pass. The gradients are the same; it takes less memory and more time. Default: false.
    pub gradient_checkpointing: bool,
    /// Folder in which the frozen vision encoder's image features are cached for other runs, which then encode
    /// only new pictures. Default: none.
    pub feature_cache_dir: Option<PathBuf>,
    /// Memory for the frozen encoder's image features, in bytes. If they take more, all of them are read from a
    /// file. Default: 128 MiB.
    pub feature_cache_memory: Option<usize>,
    /// Type of cached image features. Default: bf16 if those of a picture take more than 1.5 MB in f32, as BLIP's do; else
    /// [`dtype`](Self::dtype).
    pub feature_cache_dtype: Option<FeatureDtype>,
    /// Whether the frozen vision encoder runs for every picture in every epoch, without a cache. Default:
    /// false.
    pub no_feature_cache: bool,
    /// Whether the kernels of each training pass and decoding step on an NVIDIA GPU are launched one after another instead of as
    /// recorded CUDA graphs, for debugging. Default: false.
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

    /// The flag of an option of the feature cache that was given.
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
    /// As one process of an MPI job in which each process has its own NVIDIA GPU. Gradients are sent from GPU
    /// to GPU with NCCL, everything else with MPI.
    Nccl,
}

names!(Distributed { None => "none", Mpi => "mpi", Nccl => "nccl" });

/// Storage type of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16 for the frozen weights, in half the memory. Adapters and optimizer stay f32.
    Bf16,
    /// 8-bit integers, multiplied as integers in both passes, in a quarter of the memory. Adapters and
    /// optimizer stay f32.
    Int8,
}

names!(Dtype { F32 => "f32", Bf16 => "bf16", Int8 => "int8" });

/// Type of cached image features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureDtype {
    /// 32 bits: the exact results of the encoder.
    F32,
    /// bfloat16, in half the size.
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
