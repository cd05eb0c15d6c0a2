//! The options of every command as plain structs. [`Default`] is the recipe. Fields are named as in Hugging
//! Face's TrainingArguments, LoraConfig and GenerationConfig, and as the flags of the command line. A field
//! that is `None` has a default that depends on other options; the field's documentation states it. A program
//! that runs a whole fine-tuning:
//!
//! ```no_run
//! use caption_lora::finetune::{self, Request, Session};
//! use caption_lora::options::{DataOptions, Finetune, LoraOptions};
//!
//! let options = Finetune {
//!     data: DataOptions { dataset: "art".parse()?, output_dir: Some("runs/art".into()), ..Default::default() },
//!     lora: LoraOptions { lora_r: Some(8), ..Default::default() },
//!     ..Default::default()
//! };
//! let mut session = Session::new(options.hardware.threads)?;
//! finetune::run(&Request::new(options), &mut session)?;
//! # Ok::<(), anyhow::Error>(())
//! ```

mod as_flags;
mod caption;
mod compare;
mod data;
mod decoding;
mod device;
mod engine;
mod finetune;
mod flags;
mod hardware;
mod lora;
mod merge;
mod names;
pub(crate) mod numbers;
mod optimizer;
mod reading;
mod run;
mod split;
mod sweep;
mod training;

pub use caption::{Caption, Drafting, Storage};
pub use compare::Compare;
pub use data::{DataOptions, OnBadRow, Padding, SplitBy};
pub use decoding::{Decoding, EarlyStopping};
pub use device::DeviceName;
pub(crate) use device::cuda_cards;
pub use finetune::Finetune;
pub use flags::Flags;
pub use hardware::{Distributed, Dtype, FeatureDtype, Hardware, TRAINED_ENCODER};
pub use lora::{LoraOptions, TargetModules, Tune};
pub(crate) use lora::{peft_name, peft_value};
pub use merge::{FileDtype, Merge};
pub use optimizer::{Optim, OptimizerOptions};
pub use reading::{CheckRows, DataCache, HeldOut, ShuffleWindow};
pub use run::{NanPolicy, ReportTo, RunOptions, SaveStrategy};
pub use split::SplitFractions;
pub use sweep::{Axis, SweepPoint};
pub use training::{EvalStrategy, FuseAccumulation, LrSchedulerType, TrainingOptions};
