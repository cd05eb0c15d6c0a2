//! The examples beside the main two, run as programs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::programs::{example, run};
use common::tiny::tensors;

/// The number behind the last word `loss` of a line.
fn loss(line: &str) -> f64 {
    line.rsplit("loss").next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_network_of_another_kind_learns_through_adapters_that_are_saved_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let stdout = run(example("lora_any_model").env("TMPDIR", folder.path())).stdout();
    let line = |start: &str| loss(stdout.lines().find(|line| line.starts_with(start)).unwrap());
    let (first, last) = (line("step    0"), line("step 1000"));
    assert!(last < first / 5.0, "{stdout}");
    // Both are printed to four digits.
    assert!((line("saved in") - line("merged into")).abs() <= 1e-4, "{stdout}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "captions 200 pictures, which takes a debug build minutes")]
fn the_command_that_made_the_embedded_checkpoint_makes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    run(example("pretrain_monsters").args(["--steps", "2", "--batch-size", "2", "--output-dir"]).arg(&made))
        .stdout();
    let committed = recipes::open::embedded_checkpoint();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let [made, committed] = [&made, &committed].map(|dir| fs::read_to_string(dir.join(name)).unwrap());
        assert!(made == committed, "{name} differs");
    }
    let shapes = |dir: &Path| -> BTreeMap<String, Vec<usize>> {
        let tensors = tensors(&dir.join("model.safetensors"));
        tensors.into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
    };
    assert_eq!(shapes(&made), shapes(&committed));
}
