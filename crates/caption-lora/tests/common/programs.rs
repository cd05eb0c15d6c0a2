//! The examples as a user runs them: as programs, tested by their output, files and exit codes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each integration test uses its part, and may panic"
)]

use std::{
    env::{self, consts::EXE_SUFFIX},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Environment variables of the machine that must not influence a test.
const SETTINGS: [&str; 21] = [
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "RAYON_NUM_THREADS",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
];

/// The installed program.
pub fn program() -> Command {
    alone(Path::new(env!("CARGO_BIN_EXE_caption-lora")))
}

/// An example that cargo built beside this test.
pub fn example(name: &str) -> Command {
    // target/PROFILE/deps/TEST
    let test = env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(format!("{name}{EXE_SUFFIX}"));
    assert!(
        path.is_file(),
        "{} is not there: `cargo test` builds it, `cargo test --test NAME` does not; \
         run `cargo build --workspace --examples` first, with the same profile",
        path.display()
    );
    alone(&path)
}

/// A program without the settings of the machine.
fn alone(path: &Path) -> Command {
    let mut command = Command::new(path);
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The main example, resuming a run with the run's own flags.
pub fn resume(folder: &Path) -> Command {
    let mut command = example("pokemon_finetune");
    command.arg("--resume").arg(folder);
    command
}

/// The result of a program.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Its standard output, if it succeeded.
    pub fn stdout(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its error message, if it refused its command line (code 2) or failed (code 1).
    pub fn refusal(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ended {
    Ended::new(command.output().unwrap())
}

/// The value in a JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values in text with one JSON value per line.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// The entries of training steps in a run's log: those with a loss.
pub fn steps(output_dir: &Path) -> Vec<Value> {
    let state = json(&output_dir.join("trainer_state.json"));
    let history = state["log_history"].as_array().unwrap().clone();
    history.into_iter().filter(|entry| entry.get("loss").is_some()).collect()
}

/// Names and contents of all files below a folder.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}
