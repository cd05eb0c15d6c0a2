use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use super::checks::{conflict, idle_flag};
use super::finetune::FinetuneFlags;
use super::recorded::recorded;
use super::refusal::known_elsewhere;
use crate::distributed::is_first_launched;
use crate::finetune;
use crate::options::{Axis, Finetune, Flags};
use crate::resume::Resume;
use crate::shell::{command_line, finetune_program};

/// A command line of `caption-lora finetune`: the parsed options, and the flags as given.
#[derive(Debug, Clone)]
pub struct Request {
    /// The parsed options.
    pub options: Finetune,
    /// The flags, which are saved with the run.
    pub flags: Flags,
    /// The command line in shell syntax, for reports.
    pub command: String,
    /// The run or the sweep to continue; [`resolve`](Self::resolve) finds it.
    pub resume: Option<Resume>,
    /// The options that a sweep varies; empty for a single run.
    pub sweep: Vec<Axis>,
}

impl Request {
    /// Reads a command line that starts with the program's name, and refuses flags without effect. The values of a
    /// sweep are not checked.
    ///
    /// # Errors
    /// As clap's; [`ErrorKind::ArgumentConflict`] names the flags that exclude each other.
    pub(super) fn checked(arguments: Vec<OsString>) -> Result<Self, Error> {
        let read = read(&with_negative_numbers(arguments.clone()));
        let request = read.map_err(|error| {
            known_elsewhere::<FinetuneFlags>("finetune", &error, &ELSEWHERE).unwrap_or(error)
        })?;
        let request = Self { command: command_line(arguments), ..request };
        // With --resume, the other flags are checked when the run is found.
        if request.resume.is_none() {
            if let Some(message) = conflict(&request.options) {
                return Err(refusal(&message));
            }
            if let Some(idle) = idle_flag(&request.options) {
                return Err(refusal(&idle.message));
            }
        }
        Ok(request)
    }

    /// The request to continue a run with the flags `saved`, replaced by those of this request. A saved flag
    /// that has no effect with the new ones is dropped.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub(super) fn continuing(&self, saved: &Flags) -> Result<Self, Error> {
        let program = finetune_program();
        let mut flags = saved.with(&self.flags);
        loop {
            let arguments: Vec<OsString> =
                std::iter::once(program.clone()).chain(flags.arguments()).collect();
            let mut options = read(&arguments)?.options;
            if let Some(idle) = idle_flag(&options) {
                if !self.flags.is_given(idle.name) && flags.remove(idle.name) {
                    continue;
                }
                return Err(refusal(&idle.message));
            }
            if let Some(message) = conflict(&options) {
                return Err(refusal(&message));
            }
            options.data.output_dir.clone_from(&self.options.data.output_dir);
            options.hardware.distributed = self.options.hardware.distributed;
            let command = command_line(std::iter::once(program).chain(flags.given_arguments()));
            return Ok(Self { options, flags, command, resume: None, sweep: Vec::new() });
        }
    }

    /// The request for a new run or sweep.
    pub(super) fn begin(self) -> finetune::Request {
        let Self { options, flags, command, sweep, .. } = self;
        finetune::Request { options, flags, command, sweep, resumed: None, resumed_sweep: None }
    }
}

/// Prints an error of the command line, or the help, and ends the process. In a job the first process does so for all.
pub(crate) fn exit(error: &Error) -> ! {
    if is_first_launched() { error.exit() } else { std::process::exit(error.exit_code()) }
}

/// Flags of other programs, and the equivalents here.
const ELSEWHERE: [(&str, &str); 14] = [
    ("--alpha", "--lora-alpha"),
    ("--batch-size", "--per-device-train-batch-size"),
    ("--epochs", "--num-train-epochs"),
    ("--lr", "--learning-rate"),
    (
        "--max-length",
        "--padding; captions are cut only where the model has no more positions, and the set-up says so",
    ),
    (
        "--max-seq-length",
        "--padding; captions are cut only where the model has no more positions, and the set-up says so",
    ),
    ("--max-train-samples", "--subset"),
    ("--model-name-or-path", "--model"),
    ("--output", "--output-dir"),
    ("--r", "--lora-r"),
    ("--rank", "--lora-r"),
    ("--resume-from-checkpoint", "--resume"),
    ("--train-batch-size", "--per-device-train-batch-size"),
    ("--warmup-steps", "--warmup-ratio, a share of the steps"),
];

/// The flags, without checks that concern more than one of them.
fn read(arguments: &[OsString]) -> Result<Request, Error> {
    let command = FinetuneFlags::command();
    let matches = command.clone().try_get_matches_from(arguments)?;
    let mut parsed = FinetuneFlags::from_arg_matches(&matches)?;
    let (resume, sweep) = (parsed.training.resume.take(), std::mem::take(&mut parsed.data.sweep));
    let flags = recorded(&command, &matches);
    Ok(Request { options: parsed.into(), flags, command: String::new(), resume, sweep })
}

fn refusal(message: &str) -> Error {
    super::refusal::refusal::<FinetuneFlags>("finetune", ErrorKind::ArgumentConflict, message)
}

/// Joins negative numbers to the flags before them, as in `--max-steps=-1`, so that the flag's own parser
/// checks them. Otherwise clap would read them as flags.
pub(super) fn with_negative_numbers(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_number = |text: &str| text.starts_with('-') && text.parse::<f64>().is_ok();
    let is_flag = |text: &str| text.starts_with("--") && text.len() > 2 && !text.contains('=');
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match joined.last_mut() {
            Some(flag) if is_flag(&flag.to_string_lossy()) && is_number(&argument.to_string_lossy()) => {
                flag.push("=");
                flag.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}
