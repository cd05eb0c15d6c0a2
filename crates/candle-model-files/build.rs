//! Finds the source of candle-transformers, a development dependency, in cargo's registry, and writes a file
//! that includes its files as modules. Nothing is copied, so that this repository has no files of another
//! project.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files and folders of `src/models`.
const MODELS: [&str; 21] = [
    "bert.rs",
    "blip_text.rs",
    "clip/mod.rs",
    "distilbert.rs",
    "falcon.rs",
    "gemma.rs",
    "gemma3.rs",
    "llama.rs",
    "mistral.rs",
    "modernbert.rs",
    "phi.rs",
    "phi3.rs",
    "qwen2.rs",
    "qwen3.rs",
    "siglip.rs",
    "stable_lm.rs",
    "starcoder2.rs",
    "vit.rs",
    "whisper/mod.rs",
    "with_tracing.rs",
    "xlm_roberta.rs",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let source = source_of("candle-transformers")?.join("src");
    let module = |name: &str, file: &Path| format!("#[path = {file:?}]\npub mod {name};\n");
    let mut modules = String::new();
    for name in ["quantized_nn", "quantized_var_builder", "utils"] {
        modules += &module(name, &source.join(format!("{name}.rs")));
    }
    modules += "pub mod models {\n";
    for file in MODELS {
        let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
        modules += &module(name, &source.join("models").join(file));
    }
    modules += "}\n";
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("models.rs"), modules)?;
    Ok(())
}

/// The folder of a dependency.
fn source_of(package: &str) -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--filter-platform", &std::env::var("TARGET")?])
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|found| found["name"] == package)
        .and_then(|found| found["manifest_path"].as_str())
        .ok_or_else(|| format!("{package} is not among the dependencies"))?;
    Ok(Path::new(manifest).parent().ok_or("a manifest has no folder")?.to_owned())
}
