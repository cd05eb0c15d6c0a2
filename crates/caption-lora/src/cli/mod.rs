//! The command lines of the program and of the examples: their flags, defaults and checks.
//!
//! Flags have the names of Hugging Face's TrainingArguments and LoraConfig in kebab case, and the defaults of
//! the recipe. Everything is checked before any work begins; a flag without effect is refused instead of
//! ignored.
//!
//! ```
//! use caption_lora::cli::{Finetune, Tune};
//!
//! let options = Finetune::from_arguments(["pokemon_finetune", "--lora-r", "8", "--tune", "both"])?;
//! assert_eq!((options.lora.rank(), options.lora.tune), (8, Tune::Both));
//! assert_eq!(options.training.num_train_epochs, 15.0);
//! # Ok::<(), clap::Error>(())
//! ```

mod caption;
mod command_line;
mod compare;
mod data;
mod decoding;
mod device;
mod engine;
mod finetune;
mod flags;
mod hardware;
mod merge;
mod request;
mod sweep;
mod threads;
mod values;

pub use caption::{Caption, Storage};
pub use command_line::{PROGRAM, command_line, finetune_command};
pub use compare::Compare;
pub use data::{DataOptions, OnBadRow, SplitBy};
pub use decoding::Decoding;
pub use device::{DeviceArg, device};
pub use engine::{OptimizerOptions, RunOptions};
pub use finetune::{Finetune, LoraOptions, TrainingOptions};
pub use flags::Flags;
pub use hardware::{FeatureDtype, Hardware, TRAINED_ENCODER};
pub use merge::{FileDtype, Merge};
pub use request::Request;
pub use sweep::{Axis, SweepRun};
pub use threads::use_threads;
pub use values::{
    Drafting, Dtype, EarlyStopping, EvalStrategy, FuseAccumulation, LrSchedulerType, NanPolicy, Optim,
    Padding, ReportTo, Resume, SaveStrategy, SplitFractions, TargetModules, Tune,
};
