use std::path::PathBuf;

use clap::Args;

use super::numbers::{bytes, count};
use crate::options::{DeviceName, Distributed, Dtype, FeatureDtype, Hardware};

/// Hardware and precision.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Hardware")]
pub(super) struct HardwareFlags {
    /// cpu, cuda, cuda:N or metal; with several processes, each takes the next GPU of its machine from this one on
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// Type of the frozen weights and of their arithmetic
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Processor threads of each process [default: RAYON_NUM_THREADS, or all cores, divided among the processes on them]
    #[arg(long, value_name = "THREADS", value_parser = count)]
    threads: Option<usize>,
    /// Whether and how the processes of a job (mpirun -n 4 ...) train together [default: mpi if several were started]
    #[arg(long, value_enum)]
    distributed: Option<Distributed>,
    /// Gradient checkpointing: save only the input of each trained layer and recompute the layer in the
    /// backward pass; the same gradients with less memory, in more time
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Cache the frozen vision encoder's image features in this folder for other runs, which then encode only
    /// new pictures. Features are identified by the picture's content, its preprocessing and the encoder's
    /// weights
    #[arg(long, value_name = "DIR", conflicts_with = "no_feature_cache")]
    feature_cache_dir: Option<PathBuf>,
    /// Memory for the frozen encoder's image features, such as 500MB or 2GB. If they are larger they are read
    /// from files, in --feature-cache-dir or else in a temporary one [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "no_feature_cache")]
    feature_cache_memory: Option<usize>,
    /// Type of cached image features [default: bf16 if those of a picture take more than 1.5 MB in f32, as BLIP's
    /// do; else that of --dtype]
    #[arg(long, value_name = "TYPE", value_enum, conflicts_with = "no_feature_cache")]
    feature_cache_dtype: Option<FeatureDtype>,
    /// Run the frozen vision encoder on every picture in every epoch, instead of caching its features
    #[arg(long)]
    no_feature_cache: bool,
    /// On an NVIDIA GPU, launch the kernels of each training pass and decoding step one after another instead of
    /// recorded CUDA graphs, for debugging
    #[arg(long)]
    no_cuda_graph: bool,
}

same_fields! {
    HardwareFlags => Hardware {
        device,
        dtype,
        threads,
        distributed,
        gradient_checkpointing,
        feature_cache_dir,
        feature_cache_memory,
        feature_cache_dtype,
        no_feature_cache,
        no_cuda_graph,
    }
}
