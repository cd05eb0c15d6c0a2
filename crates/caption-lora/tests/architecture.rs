//! The dependency arrows of docs/architecture.md, between crates and inside the application.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The packages of the workspace, as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Without the device's feature, operations of candle-core or candle-nn fail on it.
#[test]
fn a_library_passes_the_features_of_every_device_on_to_candle() {
    let mut checked = 0;
    for package in packages().iter().filter(|package| package["features"]["cuda"].is_array()) {
        // Programs get the features of `caption-lora`, and cuda-kernels is for one device.
        if ["benches", "cuda-kernels", "examples"].contains(&package["name"].as_str().unwrap()) {
            continue;
        }
        let dependencies = package["dependencies"].as_array().unwrap();
        let used = dependencies.iter().filter(|dependency| {
            dependency["kind"].is_null() && dependency["optional"] == Value::Bool(false)
        });
        let candle = used.map(|dependency| dependency["name"].as_str().unwrap());
        for candle in candle.filter(|name| ["candle-core", "candle-nn"].contains(name)) {
            for device in ["cuda", "metal", "accelerate"] {
                let passed_on = package["features"][device].as_array().into_iter().flatten();
                let wanted = format!("{candle}/{device}");
                assert!(passed_on.clone().any(|name| *name == *wanted), "{}: {wanted}", package["name"]);
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "benches",
            "blip-model",
            "candle-model-files",
            "caption-data",
            "caption-generation",
            "caption-metrics",
            "caption-model",
            "captioner",
            "cpu-kernels",
            "cuda-kernels",
            "examples",
            "git-model",
            "image-pixels",
            "monster-drawings",
            "peft-lora",
            "caption-lora",
            "torch-files",
            "train-ops",
            "trainable-nn",
            "trainer-core",
            "trainer-mpi"
        ])
    );
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        // Programs may use every library, and so may the tests that are a package.
        if ["benches", "candle-model-files", "examples"].contains(&name) {
            continue;
        }
        let own: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| dependency["name"].as_str().unwrap())
            .filter(|dependency| names.contains(dependency))
            .collect();
        let allowed: &[&str] = match name {
            "caption-generation" => &["cpu-kernels"],
            // Its tests compare with the masks of the CPU.
            "cuda-kernels" => &["cpu-kernels"],
            "train-ops" => &["cpu-kernels", "cuda-kernels"],
            "trainer-core" => &["cpu-kernels", "cuda-kernels"],
            "trainer-mpi" => &["trainer-core"],
            "caption-data" => &["image-pixels"],
            "captioner" => &["blip-model", "caption-data", "caption-model", "git-model", "train-ops"],
            "caption-model" => &["caption-generation", "torch-files", "train-ops"],
            // Their tests run a backward pass in segments, and train adapters.
            "blip-model" => &["caption-model", "peft-lora", "train-ops", "trainer-core"],
            "git-model" => &["caption-model", "peft-lora", "train-ops", "trainer-core"],
            "peft-lora" => &["torch-files", "train-ops"],
            "monster-drawings" => &["caption-data"],
            // Its tests and its example train it with adapters.
            "trainable-nn" => &["peft-lora", "train-ops", "trainer-core"],
            "caption-lora" => &[
                "caption-data",
                "caption-metrics",
                "caption-model",
                "captioner",
                "blip-model",
                "git-model",
                "monster-drawings",
                "peft-lora",
                "train-ops",
                "trainer-core",
                "trainer-mpi",
            ],
            _ => &[],
        };
        assert_eq!(own, allowed.iter().copied().collect(), "{name}");
    }
}

/// Every file of Rust code below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn only_the_command_line_knows_clap() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_command_line = |path: &PathBuf| {
        let below = path.strip_prefix(&src).unwrap();
        below.starts_with("cli") || below == Path::new("main.rs") || below == Path::new("commands.rs")
    };
    let (command_line, core): (Vec<_>, Vec<_>) = sources(&src).into_iter().partition(is_command_line);
    assert!(command_line.len() > 15 && core.len() > 80, "{} and {}", command_line.len(), core.len());
    let mut named = Vec::new();
    for path in core {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names = |line: &str| ["clap::", "cli::"].iter().any(|name| line.contains(name));
        named.extend(code.filter(|line| names(line)).map(|line| format!("{}: {line}", path.display())));
    }
    assert!(named.is_empty(), "{}", named.join("\n"));
}
