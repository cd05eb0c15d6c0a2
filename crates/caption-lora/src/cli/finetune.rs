use clap::Parser;

use super::data::DataFlags;
use super::hardware::HardwareFlags;
use super::lora::LoraFlags;
use super::optimizer::OptimizerFlags;
use super::run::RunFlags;
use super::training::TrainingFlags;
use crate::options::Finetune;

/// Fine-tunes an image-captioning model (GIT or BLIP) with LoRA on captioned pictures, and shows its captions
/// before and after.
///
/// Without arguments it needs no network: it runs the whole recipe on a small model and drawings that come
/// with it.
#[derive(Debug, Clone, Parser)]
#[command(name = "pokemon_finetune", version)]
pub(super) struct FinetuneFlags {
    /// Inputs and outputs.
    #[command(flatten)]
    pub(super) data: DataFlags,
    /// Length, learning rate and batches.
    #[command(flatten)]
    pub(super) training: TrainingFlags,
    /// Optimizer options.
    #[command(flatten)]
    pub(super) optimizer: OptimizerFlags,
    /// When to evaluate, save and end.
    #[command(flatten)]
    pub(super) run: RunFlags,
    /// Which parameters are trained.
    #[command(flatten)]
    pub(super) lora: LoraFlags,
    /// Hardware and precision.
    #[command(flatten)]
    pub(super) hardware: HardwareFlags,
}

impl From<FinetuneFlags> for Finetune {
    fn from(flags: FinetuneFlags) -> Self {
        let FinetuneFlags { data, training, optimizer, run, lora, hardware } = flags;
        Self {
            data: data.into(),
            training: training.into(),
            optimizer: optimizer.into(),
            run: run.into(),
            lora: lora.into(),
            hardware: hardware.into(),
        }
    }
}

#[cfg(test)]
mod tests;
