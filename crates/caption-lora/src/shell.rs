//! Commands in shell syntax, for messages, records and reports.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The name of the installed program.
pub const PROGRAM: &str = "caption-lora";

/// A program's arguments, its name first, in shell syntax: `caption-lora finetune ...` for the installed program, and
/// `cargo run --release --example NAME -- ...` for an example.
pub fn command_line(arguments: impl IntoIterator<Item = OsString>) -> String {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy();
    let arguments: Vec<String> = arguments.map(|argument| quoted(&argument.to_string_lossy())).collect();
    command(&name, &arguments)
}

/// The command that fine-tunes with these arguments, in shell syntax.
pub fn finetune_command(arguments: &[&OsStr]) -> String {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    command_line(std::iter::once(finetune_program()).chain(arguments))
}

/// The command of the installed program that fine-tunes with these arguments, in shell syntax.
pub(crate) fn program_command(arguments: impl IntoIterator<Item = OsString>) -> String {
    command_line(std::iter::once(format!("{PROGRAM} finetune").into()).chain(arguments))
}

/// The running program's name for fine-tuning: with its subcommand for the installed program, else the main example.
pub(crate) fn finetune_program() -> OsString {
    if is_installed() { format!("{PROGRAM} finetune").into() } else { "pokemon_finetune".into() }
}

/// A flag with a path as its value.
pub(crate) fn with_path(flag: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(path);
    argument
}

/// Whether the running program is the installed one; else it is an example or a test.
pub(crate) fn is_installed() -> bool {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_stem().is_some_and(|name| name == PROGRAM)
}

fn command(program: &str, arguments: &[String]) -> String {
    let mut words = Vec::new();
    if program.starts_with(PROGRAM) {
        words.push(program.to_owned());
    } else {
        words.push(format!("cargo run --release --example {program}"));
        words.extend((!arguments.is_empty()).then(|| "--".to_owned()));
    }
    words.extend_from_slice(arguments);
    words.join(" ")
}

/// Quotes an argument for a POSIX shell.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+%@".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_quoted_for_the_shell() {
        assert_eq!(quoted("--lora-r=8"), "--lora-r=8");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted(".*(query|value)"), "'.*(query|value)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_command_is_that_of_the_program_that_ran() {
        assert_eq!(command("caption", &[]), "cargo run --release --example caption");
        let line = |program: &str| command_line([program, "--resume", "runs/x"].map(OsString::from));
        assert_eq!(
            line("target/release/examples/pokemon_finetune"),
            "cargo run --release --example pokemon_finetune -- --resume runs/x"
        );
        assert_eq!(line("caption-lora finetune"), "caption-lora finetune --resume runs/x");
    }
}
