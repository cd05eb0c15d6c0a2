use std::ffi::OsString;
use std::path::Path;

use clap::error::Error;

use super::grid::runs;
use super::request::{Request, exit};

impl Request {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in
    /// clap.
    pub fn from_command_line() -> Self {
        Self::parse(std::env::args_os()).unwrap_or_else(|error| exit(&error))
    }

    /// Reads a command line that starts with the program's name, and refuses flags without effect. Each
    /// combination of a sweep's values is checked too.
    ///
    /// # Errors
    /// As clap's; [`ErrorKind::ArgumentConflict`](clap::error::ErrorKind::ArgumentConflict) names the flags that
    /// exclude each other.
    pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        let request = Self::checked(arguments.into_iter().map(Into::into).collect())?;
        // The runs of a resumed sweep are known only when the sweep is found.
        if request.resume.is_none() {
            runs(&request.clone().begin(), Path::new(""))?;
        }
        Ok(request)
    }
}
