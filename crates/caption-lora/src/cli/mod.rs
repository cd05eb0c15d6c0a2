//! The command lines of the program and of the examples: their flags, defaults and checks.
//!
//! Flags have the names of Hugging Face's TrainingArguments and LoraConfig in kebab case, and the defaults of
//! the recipe. Everything is checked before any work begins; a flag without effect is refused instead of
//! ignored. A command line becomes plain [`options`](crate::options), which the rest of the crate uses.
//!
//! ```
//! use caption_lora::cli::Request;
//! use caption_lora::options::Tune;
//!
//! let options = Request::parse(["pokemon_finetune", "--lora-r", "8", "--tune", "both"])?.options;
//! assert_eq!((options.lora.rank(), options.lora.tune), (8, Tune::Both));
//! assert_eq!(options.training.num_train_epochs, 15.0);
//! # Ok::<(), clap::Error>(())
//! ```

/// Converts flags to plain options with the same fields. A field after `without` has no option of that name.
macro_rules! same_fields {
    ($flags:ident => $options:ident $(without $left:ident)? { $($field:ident),+ $(,)? }) => {
        impl From<$flags> for $options {
            fn from(flags: $flags) -> Self {
                let $flags { $($field,)+ $($left: _)? } = flags;
                Self { $($field),+ }
            }
        }
    };
}

mod caption;
mod checks;
mod compare;
mod data;
mod decoding;
mod finetune;
mod grid;
mod hardware;
mod lora;
mod merge;
mod moved;
mod numbers;
mod optimizer;
mod parse;
mod recorded;
mod refusal;
mod request;
mod resume;
mod run;
mod sweep;
mod training;
mod values;

pub use caption::CaptionFlags;
pub use compare::CompareFlags;
pub use merge::MergeFlags;
pub use request::Request;
pub(crate) use request::exit;
pub use sweep::sweep;
