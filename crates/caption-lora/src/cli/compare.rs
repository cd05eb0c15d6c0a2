use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, error::Error};

use crate::options::Compare;

/// Compares finished runs on one page.
#[derive(Debug, Clone, Parser)]
#[command(name = "compare_runs", version)]
pub struct CompareFlags {
    /// Output folders of the runs
    #[arg(value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "runs/compare.html")]
    output: PathBuf,
}

impl From<CompareFlags> for Compare {
    fn from(flags: CompareFlags) -> Self {
        let CompareFlags { runs, output } = flags;
        Self { runs, output }
    }
}

impl CompareFlags {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in clap.
    pub fn from_command_line() -> Compare {
        Self::parse().into()
    }

    /// Reads a command line that starts with the program's name.
    ///
    /// # Errors
    /// As clap's.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Compare, Error> {
        Self::try_parse_from(arguments).map(Into::into)
    }
}
