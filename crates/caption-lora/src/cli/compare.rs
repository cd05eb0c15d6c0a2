use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, error::Error};

/// Compares finished runs on one page.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "compare_runs", version)]
pub struct Compare {
    /// Output folders of the runs
    #[arg(value_name = "DIR", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "runs/compare.html")]
    pub output: PathBuf,
}

impl Compare {
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
