//! The dependency arrows of docs/architecture.md.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
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
            "monster-drawings",
            "peft-lora",
            "caption-lora",
            "torch-files",
            "train-ops",
            "trainable-nn",
            "trainer-core"
        ])
    );
    for package in packages {
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
            "trainer-core" => &["cuda-kernels"],
            "captioner" => &["blip-model", "caption-data", "caption-model", "git-model", "train-ops"],
            "caption-model" => &["caption-generation", "torch-files", "train-ops"],
            "blip-model" => &["caption-model", "peft-lora", "train-ops"],
            "git-model" => &["caption-model", "train-ops"],
            "peft-lora" => &["torch-files", "train-ops"],
            "monster-drawings" => &["caption-data"],
            // Its tests train it with adapters.
            "trainable-nn" => &["peft-lora", "train-ops"],
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
            ],
            _ => &[],
        };
        assert_eq!(own, allowed.iter().copied().collect(), "{name}");
    }
}
