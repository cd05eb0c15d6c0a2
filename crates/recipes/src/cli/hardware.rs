use std::path::PathBuf;

use clap::Args;

use super::{
    DeviceArg, Dtype, Finetune, Tune,
    values::{bytes, count},
};

/// On what it is computed.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Hardware")]
pub struct Hardware {
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceArg,
    /// Type of the frozen weights and of the arithmetic with them
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Processor threads [default: RAYON_NUM_THREADS, or all cores]
    #[arg(long, value_name = "THREADS", value_parser = count)]
    pub threads: Option<usize>,
    /// Keep only the input of each layer that is trained through, and compute the layer again in the backward pass: the
    /// same gradients with less memory, in more time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Keep what the frozen vision encoder makes of each picture in this folder, for other runs: they encode only
    /// pictures that are not there, by their content, preprocessing and the encoder's weights
    #[arg(long, value_name = "DIR", conflicts_with = "no_feature_cache")]
    pub feature_cache_dir: Option<PathBuf>,
    /// Memory for what the encoder makes of the pictures, as 500MB or 2GB; if it is more, it is read from files, in
    /// --feature-cache-dir or else in one that is gone when the run ends [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "no_feature_cache")]
    pub feature_cache_memory: Option<usize>,
    /// Run the frozen vision encoder on every picture in every epoch, instead of keeping what it makes of them
    #[arg(long)]
    pub no_feature_cache: bool,
}

/// Why there is no keeping features of an encoder in training, and what can be done.
pub const TRAINED_ENCODER: &str = "what it makes of a picture changes with every step; leave the flag out";

impl Hardware {
    /// Memory for the frozen encoder's features: --feature-cache-memory, else 128 MiB. A batch is read from a file in a
    /// thousandth of the time that a step of a large model takes, so more memory gains nothing.
    pub fn feature_memory(&self) -> usize {
        self.feature_cache_memory.unwrap_or(128 << 20)
    }

    /// A flag about the features of the frozen encoder that was given.
    pub fn cache_flag(&self) -> Option<&'static str> {
        let dir = self.feature_cache_dir.as_ref().map(|_| "--feature-cache-dir");
        let memory = self.feature_cache_memory.map(|_| "--feature-cache-memory");
        dir.or(memory).or(self.no_feature_cache.then_some("--no-feature-cache"))
    }
}

impl Finetune {
    /// A flag about features that was given although the encoder is sure to be trained. Target modules may leave it
    /// alone whatever --tune says, which is known when the model is built.
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
    use candle_core::DType;
    use clap::Parser as _;
    use git_model::GitConfig;

    use super::*;
    use crate::features::Layout;

    /// 700 pictures: git-base's in either type would be a third or more of what training takes.
    #[test]
    fn features_of_a_large_model_are_in_a_file_and_those_of_the_embedded_one_in_memory() {
        let memory = Finetune::parse_from(["pokemon_finetune"]).hardware.feature_memory();
        let bytes = |config: &GitConfig, dtype| {
            let vision = &config.vision_config;
            700 * Layout { tokens: vision.tokens(), width: vision.hidden_size, dtype }.bytes()
        };
        let embedded = GitConfig::read(&crate::open::embedded_checkpoint().join("config.json")).unwrap();
        assert!(bytes(&embedded, DType::F32) <= memory);
        assert!(bytes(&GitConfig::default(), DType::BF16) > memory);
    }
}
