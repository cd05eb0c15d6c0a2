use clap::CommandFactory;
use clap::error::{ContextKind, Error, ErrorKind};

use crate::shell::{PROGRAM, is_installed};

/// An error about the arguments of a subcommand. Its usage line names the program that runs.
pub(super) fn refusal<C: CommandFactory>(subcommand: &str, kind: ErrorKind, message: &str) -> Error {
    let command = C::command();
    let mut command =
        if is_installed() { command.bin_name(format!("{PROGRAM} {subcommand}")) } else { command };
    command.error(kind, message)
}

/// The error for an unknown flag that is another program's name for a flag of this subcommand; `known` has both
/// names.
pub(super) fn known_elsewhere<C: CommandFactory>(
    subcommand: &str,
    error: &Error,
    known: &[(&str, &str)],
) -> Option<Error> {
    let flag = error.get(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument)?;
    let flag = flag.to_string().split('=').next()?.replace('_', "-");
    let (_, meant) = known.iter().find(|(other, _)| *other == flag)?;
    let message = format!("there is no {flag}: give {meant}");
    Some(refusal::<C>(subcommand, ErrorKind::UnknownArgument, &message))
}
