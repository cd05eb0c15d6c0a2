use std::path::PathBuf;

use candle_core::DType;
use clap::{Args, ValueEnum};

use super::{
    DeviceArg, Dtype, Finetune, Tune,
    values::{bytes, count},
};

/// Hardware and precision.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Hardware")]
pub struct Hardware {
    /// cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceArg,
    /// Type of the frozen weights and of their arithmetic
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Processor threads [default: RAYON_NUM_THREADS, or all cores]
    #[arg(long, value_name = "THREADS", value_parser = count)]
    pub threads: Option<usize>,
    /// Gradient checkpointing: save only the input of each trained layer and recompute the layer in the
    /// backward pass; the same gradients with less memory, in more time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Cache the frozen vision encoder's image features in this folder for other runs, which then encode only
    /// new pictures. Features are identified by the picture's content, its preprocessing and the encoder's
    /// weights
    #[arg(long, value_name = "DIR", conflicts_with = "no_feature_cache")]
    pub feature_cache_dir: Option<PathBuf>,
    /// Memory for the frozen encoder's image features, such as 500MB or 2GB. If they are larger they are read
    /// from files, in --feature-cache-dir or else in a temporary one [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "no_feature_cache")]
    pub feature_cache_memory: Option<usize>,
    /// Type of cached image features [default: bf16 if those of a picture take more than 1.5 MB in f32, as BLIP's
    /// do; else that of --dtype]
    #[arg(long, value_name = "TYPE", value_enum, conflicts_with = "no_feature_cache")]
    pub feature_cache_dtype: Option<FeatureDtype>,
    /// Run the frozen vision encoder on every picture in every epoch, instead of caching its features
    #[arg(long)]
    pub no_feature_cache: bool,
}

/// Type of cached image features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FeatureDtype {
    /// 32 bits: the encoder's numbers
    F32,
    /// bfloat16: half the size
    Bf16,
}

impl From<FeatureDtype> for DType {
    fn from(dtype: FeatureDtype) -> Self {
        match dtype {
            FeatureDtype::F32 => Self::F32,
            FeatureDtype::Bf16 => Self::BF16,
        }
    }
}

/// Why a trained encoder's features cannot be cached, and what to do.
pub const TRAINED_ENCODER: &str = "its image features change with every step; leave the flag out";

impl Hardware {
    /// Memory for the frozen encoder's features: --feature-cache-memory, else 128 MiB. Reading a batch from a
    /// file takes a thousandth of a large model's step, so more memory gains nothing.
    pub fn feature_memory(&self) -> usize {
        self.feature_cache_memory.unwrap_or(128 << 20)
    }

    /// A feature cache flag that was given.
    pub fn cache_flag(&self) -> Option<&'static str> {
        let dir = self.feature_cache_dir.as_ref().map(|_| "--feature-cache-dir");
        let memory = self.feature_cache_memory.map(|_| "--feature-cache-memory");
        let dtype = self.feature_cache_dtype.map(|_| "--feature-cache-dtype");
        dir.or(memory).or(dtype).or(self.no_feature_cache.then_some("--no-feature-cache"))
    }
}

impl Finetune {
    /// A feature cache flag that was given although the encoder is certain to be trained. Target modules may
    /// exclude the encoder whatever --tune says; that is known only when the model is built.
    pub(super) fn idle_cache_flag(&self) -> Option<&'static str> {
        let trained = match self.lora.tune {
            Tune::Text => false,
            Tune::Vision | Tune::Both => {
                self.lora.target_modules.is_none() && self.lora.init_adapter.is_none()
            }
            Tune::Full => true,
        };
        self.hardware.cache_flag().filter(|_| trained)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use git_model::GitConfig;

    use super::*;
    use crate::features::Layout;

    /// For 700 pictures, git-base's features of either type would be a third or more of the memory of
    /// training.
    #[test]
    fn large_features_are_cached_in_a_file_and_small_ones_in_memory() {
        let memory = Finetune::parse_from(["pokemon_finetune"]).hardware.feature_memory();
        let bytes = |config: &GitConfig, dtype| {
            let vision = &config.vision_config;
            700 * Layout { tokens: vision.tokens(), width: vision.hidden_size, dtype }.bytes()
        };
        let embedded = GitConfig::read(&crate::embedded::checkpoint().unwrap().join("config.json")).unwrap();
        assert!(bytes(&embedded, DType::F32) <= memory);
        assert!(bytes(&GitConfig::default(), DType::BF16) > memory);
    }
}
