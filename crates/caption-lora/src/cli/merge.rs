use std::ffi::OsString;
use std::path::PathBuf;

use candle_core::DType;
use clap::{Parser, ValueEnum, error::Error};

use crate::hub::Location;

/// Merges a LoRA adapter into its model, which then needs no adapter: transformers opens it like any checkpoint.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "merge_adapter", version)]
pub struct Merge {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    pub model: Location,
    /// The adapter: a local folder, or a hub id, with @ and a revision behind it if need be
    #[arg(long, value_name = "NAME", value_parser = super::caption::adapter)]
    pub adapter: Location,
    /// Folder for the merged checkpoint, a new or an empty one
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Storage type of the weights; that of the checkpoint if not given. Sums are computed in f32 in any case
    #[arg(long, value_enum)]
    pub dtype: Option<FileDtype>,
}

/// The type in which a merged checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileDtype {
    /// 32 bits
    F32,
    /// bfloat16: 16 bits, with the range of f32
    Bf16,
    /// 16 bits, with numbers up to 65,504
    F16,
}

impl From<FileDtype> for DType {
    fn from(dtype: FileDtype) -> Self {
        match dtype {
            FileDtype::F32 => Self::F32,
            FileDtype::Bf16 => Self::BF16,
            FileDtype::F16 => Self::F16,
        }
    }
}

impl Merge {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in clap.
    pub fn from_command_line() -> Self {
        Self::parse()
    }

    /// Reads a command line that starts with the program's name.
    ///
    /// # Errors
    /// As clap's.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, Error> {
        Self::try_parse_from(arguments)
    }
}
