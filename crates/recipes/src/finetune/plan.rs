use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::DType;
use caption_data::Padding;
use git_model::Checkpoint;
use trainer_core::TrainingArguments;

use super::{Inputs, Session};
use crate::adapt::{self, Adapted};
use crate::cli::{self, Finetune};
use crate::features::encoder_fingerprint;
use crate::setup;
use crate::terminal::say;

/// The adapted model, the engine's arguments, and the set-up in words.
pub struct Plan {
    /// The model and its trainable part.
    pub adapted: Adapted,
    /// The type of the frozen weights and of the cached features.
    pub dtype: DType,
    /// How captions are padded.
    pub padding: Padding,
    /// Arguments of the training engine.
    pub arguments: TrainingArguments,
    /// The set-up, as it is printed and listed in the report: names and values.
    pub setup: Vec<(String, String)>,
    /// A folder that keeps features between runs, and the encoder's fingerprint.
    pub(super) between_runs: Option<(PathBuf, u128)>,
}

impl Plan {
    /// Builds the model with its adapter and decides how the run goes.
    ///
    /// # Errors
    /// If the adapter does not fit the model, or if options contradict each other.
    pub fn new(
        options: &Finetune,
        checkpoint: Checkpoint,
        inputs: &Inputs,
        session: &Session,
    ) -> Result<Self> {
        let Finetune { lora, training, hardware, .. } = options;
        let device = cli::device(hardware.device)?;
        let dtype = adapt::storage(hardware.dtype);
        let between_runs = match &hardware.feature_cache_dir {
            Some(dir) if session.features.is_none() => {
                Some((dir.clone(), encoder_fingerprint(&checkpoint, dtype, &device)?))
            }
            _ => None,
        };
        let adapted = adapt::build(&inputs.name, checkpoint, lora, training.seed, &device, hardware)?;
        train_ops::release_memory();
        if adapted.vision_trains
            && let Some(flag) = hardware.cache_flag()
        {
            bail!("{flag} does nothing, as the vision encoder is trained: {}", cli::TRAINED_ENCODER);
        }

        let (padding, longest) = padding(options, inputs, &adapted);
        let fused_micro_batches =
            options.fused_micro_batches(adapted.model.config(), longest, adapted.vision_trains);
        let arguments = TrainingArguments { fused_micro_batches, ..options.training_arguments() };
        // Now, and not after the features are computed.
        arguments.validate()?;
        let setup = setup::rows(options, &arguments, inputs, &adapted, padding, session.threads);
        Ok(Self { adapted, dtype, padding, arguments, setup, between_runs })
    }

    /// Prints the set-up.
    pub fn print(&self) {
        for (name, value) in &self.setup {
            say(format_args!("{name:>13}  {value}"));
        }
    }
}

/// How captions are padded, and the length of the longest padded training caption in tokens.
fn padding(options: &Finetune, inputs: &Inputs, adapted: &Adapted) -> (Padding, usize) {
    match options.data.padding {
        cli::Padding::Longest => {
            let lengths =
                inputs.rows.train.iter().filter_map(|row| inputs.captions.ids(*row)).map(<[u32]>::len);
            (Padding::Longest, lengths.max().unwrap_or_default())
        }
        cli::Padding::MaxLength => {
            let positions = adapted.model.config().max_position_embeddings;
            let length = inputs.tokenizer.max_length().unwrap_or(positions).min(positions);
            (Padding::MaxLength(length), length)
        }
    }
}
