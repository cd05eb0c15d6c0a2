//! The installed program: each subcommand, run as a user does, from a folder of its own.

use std::path::Path;
use std::process::Command;

use crate::common::programs::{program, run};

/// The program, in an empty folder and with an empty cache.
fn in_folder(folder: &Path, arguments: &str) -> Command {
    let mut command = program();
    command.current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command.args(arguments.split_whitespace());
    command
}

#[test]
fn every_step_from_drawings_to_a_merged_model_works_from_any_folder() {
    let folder = tempfile::tempdir().unwrap();
    let said = |arguments: &str| run(&mut in_folder(folder.path(), arguments)).stdout();
    let short = "finetune --max-steps 2 --subset 20 --eval-strategy no --output-dir";
    said(&format!("{short} runs/a"));
    said(&format!("{short} runs/b --lora-r 4"));
    assert!(said("compare runs/a runs/b").contains("written to runs/compare.html"));
    let merged = said("merge --adapter runs/a/adapter --output-dir merged");
    assert!(merged.contains("written to merged"), "{merged}");
    let with = |model: &str| said(&format!("caption --dataset embedded --rows 0,3 {model}"));
    assert_eq!(with("--model merged"), with("--adapter runs/a/adapter"));
    let unpacked = folder.path().join("cache/caption-lora");
    assert_eq!(unpacked.read_dir().unwrap().count(), 1, "the embedded checkpoint is unpacked once");
}

#[test]
fn a_resumed_run_names_the_command_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut in_folder(
        folder.path(),
        "finetune --max-steps 1 --subset 20 --eval-strategy no --output-dir x",
    ))
    .stdout();
    let record = std::fs::read_to_string(folder.path().join("x/run.json")).unwrap();
    assert!(record.contains("\"caption-lora finetune --max-steps 1 "), "{record}");
}

#[test]
fn help_and_errors_name_the_subcommands() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(&mut in_folder(folder.path(), "--help")).stdout();
    for name in ["finetune", "caption", "merge", "compare"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
        let help = run(&mut in_folder(folder.path(), &format!("{name} --help"))).stdout();
        assert!(help.contains(&format!("Usage: caption-lora {name} ")), "{help}");
    }
    let refusal = run(&mut in_folder(folder.path(), "tune")).refusal(2);
    assert!(refusal.contains("'tune'") && refusal.contains("Usage: caption-lora <COMMAND>"), "{refusal}");
    let refusal = run(&mut in_folder(folder.path(), "caption")).refusal(2);
    assert!(refusal.contains("Usage: caption-lora caption "), "{refusal}");
    let refusal = run(&mut in_folder(folder.path(), "finetune --eval-steps 3")).refusal(2);
    assert!(refusal.contains("Usage: caption-lora finetune "), "{refusal}");
}
