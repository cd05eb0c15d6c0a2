use std::ffi::OsString;
use std::path::Path;

use clap::error::{Error, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use super::command_line::{finetune_program, known_elsewhere};
use super::{Finetune, Flags, command_line};
use crate::resume::{Resumed, ResumedSweep};

/// A command line of `pokemon_finetune`: the parsed options, and the flags as given.
#[derive(Debug, Clone)]
pub struct Request {
    /// The parsed options.
    pub options: Finetune,
    /// The flags, which are saved with the run.
    pub flags: Flags,
    /// The command line in shell syntax, for reports.
    pub command: String,
    /// The run to continue; found by [`Resumed::find`](crate::resume::Resumed::find).
    pub resumed: Option<Resumed>,
    /// The sweep to continue, found in the same way.
    pub resumed_sweep: Option<ResumedSweep>,
}

impl Request {
    /// Reads the process's command line. Help, version and errors are printed and end the process, as in
    /// clap.
    pub fn from_command_line() -> Self {
        Self::parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line that starts with the program's name, and refuses flags without effect. Each
    /// combination of a sweep's values is checked too.
    ///
    /// # Errors
    /// As clap's; [`ErrorKind::ArgumentConflict`] names the flags that exclude each other.
    pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let read = read(&with_negative_numbers(arguments.clone()));
        let (options, flags) = read
            .map_err(|error| known_elsewhere::<Finetune>("finetune", &error, &ELSEWHERE).unwrap_or(error))?;
        let command = command_line(arguments);
        let request = Self { options, flags, command, resumed: None, resumed_sweep: None };
        // With --resume, the other flags are checked when the run is found.
        if request.options.training.resume.is_none() {
            if let Some(message) = request.options.split_conflict() {
                return Err(refusal(&message));
            }
            if let Some(idle) = request.options.idle_flag() {
                return Err(refusal(&idle.message));
            }
            request.sweep(Path::new(""))?;
        }
        Ok(request)
    }

    /// The request to continue a run with the flags `saved`, replaced by those of this request. A saved flag
    /// that the new ones make ineffective is dropped.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn continuing(&self, saved: &Flags) -> Result<Self, Error> {
        let program = finetune_program();
        let mut flags = saved.with(&self.flags);
        loop {
            let arguments: Vec<OsString> =
                std::iter::once(program.clone()).chain(flags.arguments()).collect();
            let (mut options, _) = read(&arguments)?;
            if let Some(idle) = options.idle_flag() {
                if !self.flags.is_given(idle.name) && flags.remove(idle.name) {
                    continue;
                }
                return Err(refusal(&idle.message));
            }
            if let Some(message) = options.split_conflict() {
                return Err(refusal(&message));
            }
            options.data.output_dir.clone_from(&self.options.data.output_dir);
            options.training.resume.clone_from(&self.options.training.resume);
            let command = command_line(std::iter::once(program).chain(flags.given_arguments()));
            return Ok(Self { options, flags, command, resumed: None, resumed_sweep: None });
        }
    }
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

fn read(arguments: &[OsString]) -> Result<(Finetune, Flags), Error> {
    let command = Finetune::command();
    let matches = command.clone().try_get_matches_from(arguments)?;
    let options = Finetune::from_arg_matches(&matches)?;
    Ok((options, Flags::of(&command, &matches)))
}

fn refusal(message: &str) -> Error {
    super::command_line::refusal::<Finetune>("finetune", ErrorKind::ArgumentConflict, message)
}

/// Joins negative numbers to the flags before them, as in `--max-steps=-1`. Otherwise clap would take them
/// for flags; this way the flag's own parser checks them.
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
