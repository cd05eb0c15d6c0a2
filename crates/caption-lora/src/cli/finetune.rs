use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, error::Error};

use super::{
    DataOptions, EvalStrategy, FuseAccumulation, Hardware, LrSchedulerType, OptimizerOptions, Request,
    Resume, RunOptions, TRAINED_ENCODER, TargetModules, Tune,
    values::{at_least_zero, count, dropout, norm, positive, seed, share, steps, whole},
};
use crate::hub::Location;

/// Fine-tunes an image-captioning model (GIT) with LoRA on captioned pictures, and shows its captions before
/// and after.
///
/// Without arguments it needs no network: it runs the whole recipe on a small model and drawings that come
/// with it.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "pokemon_finetune", version)]
pub struct Finetune {
    /// Inputs and outputs.
    #[command(flatten)]
    pub data: DataOptions,
    /// Length, learning rate and batches.
    #[command(flatten)]
    pub training: TrainingOptions,
    /// Optimizer options.
    #[command(flatten)]
    pub optimizer: OptimizerOptions,
    /// When to evaluate, save and end.
    #[command(flatten)]
    pub run: RunOptions,
    /// Which parameters are trained.
    #[command(flatten)]
    pub lora: LoraOptions,
    /// Hardware and precision.
    #[command(flatten)]
    pub hardware: Hardware,
}

/// Length, learning rate and batches. "Step" always means an optimizer step.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingOptions {
    /// Passes over the training rows; may be a fraction
    #[arg(long, value_name = "EPOCHS", default_value = "15", value_parser = positive)]
    pub num_train_epochs: f64,
    /// Stop after this many steps, whatever --num-train-epochs says
    #[arg(long, value_name = "STEPS", value_parser = steps)]
    pub max_steps: Option<usize>,
    /// The highest learning rate, reached at the end of the warm-up [default: 5e-5; 1e-3 for the embedded
    /// model, whose layers are six times narrower]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub learning_rate: Option<f64>,
    /// The learning rate's schedule after the warm-up
    #[arg(long, value_enum, default_value_t)]
    pub lr_scheduler_type: LrSchedulerType,
    /// Share of the steps in which the learning rate rises from 0
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = share)]
    pub warmup_ratio: f64,
    /// Batch size
    #[arg(long, value_name = "PICTURES", default_value = "2", value_parser = count)]
    pub per_device_train_batch_size: usize,
    /// Batch size of evaluations; affects only speed and memory
    #[arg(long, value_name = "PICTURES", default_value = "8", value_parser = count)]
    pub per_device_eval_batch_size: usize,
    /// Batches per optimizer step; their gradients are weighted by the number of target tokens
    #[arg(long, value_name = "BATCHES", default_value = "4", value_parser = count)]
    pub gradient_accumulation_steps: usize,
    /// Run up to this many of a step's batches in one forward and backward pass: the same step except for
    /// rounding, faster, in more memory; `auto`: as many as take little memory
    #[arg(long, value_name = "BATCHES", default_value_t)]
    pub fuse_accumulation: FuseAccumulation,
    /// Weight decay, except for biases and norms; decoupled in AdamW
    #[arg(long, value_name = "DECAY", default_value = "0", value_parser = at_least_zero)]
    pub weight_decay: f64,
    /// Clip gradients to this norm over all trainable parameters; 0 turns clipping off
    #[arg(long, value_name = "NORM", default_value = "1.0", value_parser = norm)]
    pub max_grad_norm: f64,
    /// Label smoothing: share of each target that is spread over the whole vocabulary, in training only
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = dropout)]
    pub label_smoothing_factor: f64,
    /// When to measure the validation loss
    #[arg(long, value_enum, default_value_t)]
    pub eval_strategy: EvalStrategy,
    /// Keep this many checkpoints besides the newest and the best; all if not given
    #[arg(long, value_name = "CHECKPOINTS", value_parser = whole)]
    pub save_total_limit: Option<usize>,
    /// Steps between two lines of the training log
    #[arg(long, value_name = "STEPS", default_value = "1", value_parser = count)]
    pub logging_steps: usize,
    /// Seed of the adapters' initial weights, of dropout and of the order of the training rows
    #[arg(long, value_name = "SEED", default_value_t = 42, value_parser = seed)]
    pub seed: u64,
    /// Continue a stopped run with its own flags: from its newest checkpoint if DIR is its folder or that of a sweep, or from
    /// the checkpoint DIR; without DIR the run in --output-dir, else the one in the working folder, else the
    /// newest in runs/pokemon, runs/pokemon-2, ... Further flags may change how long and how fast it trains, and when it evaluates,
    /// saves and ends
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "latest")]
    pub resume: Option<Resume>,
}

/// Which parameters are trained.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "LoRA")]
pub struct LoraOptions {
    /// Which part of the model is trained
    #[arg(long, value_enum, default_value_t)]
    pub tune: Tune,
    /// Rank of the adapters [default: 16, or that of --init-adapter]
    #[arg(long, value_name = "RANK", value_parser = count)]
    pub lora_r: Option<usize>,
    /// The adapters' output is scaled by alpha / rank [default: 32, or that of --init-adapter]
    #[arg(long, value_name = "ALPHA", value_parser = positive)]
    pub lora_alpha: Option<f64>,
    /// Dropout of the adapters' inputs, in training [default: 0.05, or that of --init-adapter]
    #[arg(long, value_name = "P", value_parser = dropout)]
    pub lora_dropout: Option<f64>,
    /// Linear layers that get an adapter: names separated by commas, a regular expression for whole paths, or
    /// `all-linear` [default: query,key,value,dense in the text decoder; q_proj,k_proj,v_proj,out_proj,fc1,fc2 in the
    /// vision encoder where --tune includes it; those of --init-adapter]
    #[arg(long, value_name = "MODULES")]
    pub target_modules: Option<TargetModules>,
    /// Begin with an adapter instead of a new one: a local folder, or a hub id, with @ and a revision behind it
    /// if need be; --lora-r, --lora-alpha and --target-modules must agree with it if given, and --lora-dropout
    /// replaces its dropout
    #[arg(long, value_name = "NAME")]
    pub init_adapter: Option<PathBuf>,
    /// Dropout of the base model's hidden states and attention, instead of the checkpoint's values
    #[arg(long, value_name = "P", value_parser = dropout)]
    pub hidden_dropout: Option<f64>,
}

impl Finetune {
    /// The learning rate: --learning-rate, else the recipe's 5e-5. The embedded model needs larger steps: an
    /// adapter's effect grows with the width of its layers.
    pub fn learning_rate(&self) -> f64 {
        let default = if self.data.model == Location::Embedded { 1e-3 } else { 5e-5 };
        self.training.learning_rate.unwrap_or(default)
    }

    /// The seed of the order of the training rows; `None` for the same order in every epoch.
    pub fn shuffle(&self) -> Option<u64> {
        (!self.data.no_shuffle).then_some(self.training.seed)
    }
}

impl LoraOptions {
    /// The rank of new adapters: --lora-r, else 16.
    pub fn rank(&self) -> usize {
        self.lora_r.unwrap_or(16)
    }

    /// The alpha of new adapters: --lora-alpha, else 32.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(32.0)
    }

    /// The dropout of new adapters: --lora-dropout, else 0.05.
    pub fn dropout(&self) -> f64 {
        self.lora_dropout.unwrap_or(0.05)
    }
}

impl Finetune {
    /// Reads a command line that starts with the program's name, and refuses flags without effect.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn from_arguments(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        Request::parse(arguments).map(|request| request.options)
    }

    /// A flag that was given without effect.
    pub(super) fn idle_flag(&self) -> Option<IdleFlag> {
        let engine = || {
            let (flag, need) = self.idle_engine_flag()?;
            Some(IdleFlag::new(flag, &format!("does nothing without {need}")))
        };
        let cache = || {
            let flag = self.idle_cache_flag()?;
            let reason = format!("does nothing where the vision encoder is trained: {TRAINED_ENCODER}");
            Some(IdleFlag::new(flag, &reason))
        };
        let lora = || {
            let reason = "does nothing with --tune full, which trains every weight without adapters";
            Some(IdleFlag::new(self.idle_lora_flag()?, reason))
        };
        engine().or_else(cache).or_else(lora)
    }

    /// An adapter flag that was given although there are no adapters.
    fn idle_lora_flag(&self) -> Option<&'static str> {
        let LoraOptions { tune, lora_r, lora_alpha, lora_dropout, target_modules, init_adapter, .. } =
            &self.lora;
        let given = [
            ("--lora-r", lora_r.is_some()),
            ("--lora-alpha", lora_alpha.is_some()),
            ("--lora-dropout", lora_dropout.is_some()),
            ("--target-modules", target_modules.is_some()),
            ("--init-adapter", init_adapter.is_some()),
            ("--loraplus-lr-ratio", self.optimizer.loraplus_lr_ratio.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given && *tune == Tune::Full).map(|(flag, _)| flag)
    }
}

/// A flag that was given without effect.
pub(super) struct IdleFlag {
    /// Its name, without dashes.
    pub(super) name: &'static str,
    /// Why, in a sentence that names it.
    pub(super) message: String,
}

impl IdleFlag {
    fn new(flag: &'static str, reason: &str) -> Self {
        Self { name: flag.trim_start_matches('-'), message: format!("{flag} {reason}") }
    }
}

#[cfg(test)]
mod tests;
