use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, error::Error};

use crate::hub::Location;
use crate::options::{FileDtype, Merge};

/// Merges a LoRA adapter into its model, which then needs no adapter: transformers opens it like any checkpoint.
#[derive(Debug, Clone, Parser)]
#[command(name = "merge_adapter", version)]
pub struct MergeFlags {
    /// The checkpoint: `embedded`, a local folder, or a hub id such as microsoft/git-base or microsoft/git-base@main
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    model: Location,
    /// The adapter: a local folder, or a hub id, optionally followed by @ and a revision
    #[arg(long, value_name = "NAME", value_parser = super::caption::adapter)]
    adapter: Location,
    /// Folder for the merged checkpoint, a new or an empty one
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Storage type of the weights; that of the checkpoint if not given. Sums are computed in f32 in any case
    #[arg(long, value_enum)]
    dtype: Option<FileDtype>,
}

impl From<MergeFlags> for Merge {
    fn from(flags: MergeFlags) -> Self {
        let MergeFlags { model, adapter, output_dir, dtype } = flags;
        Self { model, adapter, output_dir, dtype }
    }
}

impl MergeFlags {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in clap.
    pub fn from_command_line() -> Merge {
        Self::parse().into()
    }

    /// Reads a command line that starts with the program's name.
    ///
    /// # Errors
    /// As clap's.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Merge, Error> {
        Self::try_parse_from(arguments).map(Into::into)
    }
}
