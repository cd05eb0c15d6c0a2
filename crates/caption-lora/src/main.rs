//! The program `caption-lora`, with one subcommand for each step from captioned pictures to a model that
//! captions new ones.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use caption_lora::commands;
use caption_lora::shell::PROGRAM;
use clap::Command;

type Run = fn(Vec<OsString>) -> ExitCode;

/// The subcommands: name, purpose, and what runs them.
const COMMANDS: [(&str, &str, Run); 4] = [
    ("finetune", "Fine-tune a model with LoRA on captioned pictures, and report on it", commands::finetune),
    ("caption", "Caption pictures, with or without an adapter", commands::caption),
    ("merge", "Merge an adapter into its model", commands::merge),
    ("compare", "Compare finished runs on one page", commands::compare),
];

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    match COMMANDS.iter().find(|(name, ..)| first == *name) {
        // Each subcommand reads its own flags. Its program name is the name under which it was called.
        Some((name, _, run)) => {
            run(std::iter::once(format!("{PROGRAM} {name}").into()).chain(arguments).collect())
        }
        None => {
            overview().get_matches();
            ExitCode::SUCCESS
        }
    }
}

/// The program without a subcommand: its help, its version, or an error that names the subcommands.
fn overview() -> Command {
    let subcommands = COMMANDS.map(|(name, purpose, _)| Command::new(name).about(purpose));
    Command::new(PROGRAM)
        .bin_name(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Fine-tunes image-captioning models with LoRA")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands(subcommands)
}
