//! The subcommands of the program `caption-lora`, from the command line to the exit code. `arguments` begin with the
//! program's name, as in [`std::env::args_os`].

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{self, CaptionFlags, CompareFlags, MergeFlags, Request};
use crate::distributed::is_first_launched;
use crate::finetune::{self, Ending, INTERRUPTED, Session};
use crate::terminal::{one_line, say_error};
use crate::{caption, merge, report};

/// The exit code of [`caption`] if some pictures could not be read.
const SKIPPED: u8 = 2;

/// Fine-tunes a model. The exit code of an interrupted run is 130.
pub fn finetune(arguments: Vec<OsString>) -> ExitCode {
    let request = Request::parse(arguments).unwrap_or_else(|error| cli::exit(&error));
    let ended = finetune_or_sweep(request).map(|ending| match ending {
        Ending::Finished => ExitCode::SUCCESS,
        Ending::Interrupted => ExitCode::from(INTERRUPTED),
    });
    // If all processes of a job have the same error, the first one prints it.
    if ended.is_err() && !is_first_launched() { ExitCode::FAILURE } else { exit_code(ended) }
}

/// Captions pictures. The exit code is 2 if some could not be read.
pub fn caption(arguments: Vec<OsString>) -> ExitCode {
    let options = CaptionFlags::from_arguments(arguments).unwrap_or_else(|error| error.exit());
    exit_code(caption::run(&options).map(|skipped| match skipped {
        0 => ExitCode::SUCCESS,
        skipped => {
            say_error(format_args!("error: {skipped} of the pictures could not be read and have no caption"));
            ExitCode::from(SKIPPED)
        }
    }))
}

/// Merges an adapter into its model.
pub fn merge(arguments: Vec<OsString>) -> ExitCode {
    let options = MergeFlags::from_arguments(arguments).unwrap_or_else(|error| error.exit());
    exit_code(merge::run(&options).map(|()| ExitCode::SUCCESS))
}

/// Compares finished runs.
pub fn compare(arguments: Vec<OsString>) -> ExitCode {
    let options = CompareFlags::from_arguments(arguments).unwrap_or_else(|error| error.exit());
    exit_code(report::compare_runs(&options.runs, &options.output).map(|()| ExitCode::SUCCESS))
}

/// The exit code of a command; an error is printed.
fn exit_code(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        say_error(format_args!("error: {}", one_line(&error)));
        ExitCode::FAILURE
    })
}

fn finetune_or_sweep(request: Request) -> Result<Ending> {
    let request = request.resolve()?;
    Session::start(&request.options.hardware)?.run(|session| {
        if request.sweep.is_empty() {
            finetune::run(&request, session)
        } else {
            cli::sweep(&request, session)
        }
    })
}
