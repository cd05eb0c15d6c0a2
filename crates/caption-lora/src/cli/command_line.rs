use std::ffi::{OsStr, OsString};
use std::path::Path;

/// A program's arguments, its name first, in shell syntax: `cargo run --release --example NAME -- ...`.
pub fn command_line(arguments: impl IntoIterator<Item = OsString>) -> String {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy();
    let arguments: Vec<String> = arguments.map(|argument| quoted(&argument.to_string_lossy())).collect();
    command(&name, &arguments)
}

/// The command that runs the main example with these arguments, in shell syntax.
pub fn example_command(arguments: &[&OsStr]) -> String {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    command_line(std::iter::once(OsString::from("pokemon_finetune")).chain(arguments))
}

fn command(example: &str, arguments: &[String]) -> String {
    let mut words = vec![format!("cargo run --release --example {example}")];
    if !arguments.is_empty() {
        words.push("--".to_owned());
        words.extend_from_slice(arguments);
    }
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
        assert_eq!(command("caption", &[]), "cargo run --release --example caption");
    }
}
