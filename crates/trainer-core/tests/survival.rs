//! A run loses nothing if the process is killed at any moment or the disk is full: child processes of this test train and
//! are killed.
//!
//! `KILLS=200 cargo test --release --workspace --test survival` kills 200 times instead of a few.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stderr, reason = "measurements and counts are for people")]
#![allow(dead_code, reason = "the engine's other tests use more of what they share")]

#[path = "engine/common.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Mlp, Rows, random_rows, untimed};
use trainer_core::{
    BoxError, Error, Event, IntervalStrategy, Outcome, Resume, StopSignal, Trainer, TrainerState,
    TrainingArguments,
};

const DIRECTORY: &str = "SURVIVAL_DIRECTORY";
const STEPS: usize = 60;

/// Saves after every step, so that most kills hit a save; with dropout, shuffling and short last steps.
fn train(directory: &Path) -> Result<(Outcome, Mlp), Error> {
    let arguments = TrainingArguments {
        max_steps: Some(STEPS),
        save_strategy: IntervalStrategy::Steps,
        save_steps: 1,
        save_total_limit: Some(1),
        eval_strategy: IntervalStrategy::Steps,
        eval_steps: 5,
        ..common::arguments(&directory.join("run"))
    };
    let mlp = Mlp::with_dropout(5, 0.4);
    let mut journal = OpenOptions::new().create(true).append(true).open(directory.join("journal")).unwrap();
    let write = move |event: &Event| -> Result<(), BoxError> {
        let line = match event {
            Event::Resumed { global_step, .. } => format!("resumed {global_step}\n"),
            Event::CheckpointSaved { path, .. } => {
                format!("saved {}\n", path.display().to_string().rsplit('-').next().unwrap())
            }
            Event::Warning(warning) => format!("warning {warning}\n"),
            _ => return Ok(()),
        };
        Ok(journal.write_all(line.as_bytes())?)
    };
    let mut trainer = Trainer::new(arguments, mlp.parameters())?.sink(write).stop_signal(StopSignal::new());
    // Before the first checkpoint there may be nothing to resume from; afterwards there must be.
    let has_saved = fs::read_to_string(directory.join("journal")).unwrap().contains("saved");
    trainer = trainer.resume(if has_saved { Resume::Newest } else { Resume::NewestIfAny });
    let train = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    let evaluation = Rows { rows: random_rows(2, 7), batch_size: 4, shuffle: None };
    Ok((trainer.fit(&mlp, &train, Some(&evaluation))?, mlp))
}

fn checkpoints(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory.join("run")).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-"))
}

/// The work of a child process. Does nothing in the parent.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    match train(&directory) {
        Ok((_, mlp)) => {
            fs::write(directory.join("bits.json"), serde_json::to_vec(&mlp.bits()).unwrap()).unwrap();
        }
        Err(error) => fs::write(directory.join("error"), common::message(&error)).unwrap(),
    }
}

fn spawn(directory: &Path, wrapper: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", wrapper, program.to_str().unwrap(), "child", "--exact"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const PLAIN: &str = "exec \"$0\" \"$@\"";
/// Files of at most 8 KiB, and an error instead of a signal for larger ones.
const SMALL_FILES: &str = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";

/// Parameters and log of a run without faults.
fn uninterrupted() -> (BTreeMap<String, Vec<u32>>, TrainerState) {
    let directory = tempfile::tempdir().unwrap();
    let (outcome, mlp) = train(directory.path()).unwrap();
    (mlp.bits(), outcome.state().clone())
}

fn assert_equal(directory: &Path, (bits, state): &(BTreeMap<String, Vec<u32>>, TrainerState)) {
    let found: BTreeMap<String, Vec<u32>> =
        serde_json::from_slice(&fs::read(directory.join("bits.json")).unwrap()).unwrap();
    assert_eq!(&found, bits);
    let found: TrainerState =
        serde_json::from_slice(&fs::read(directory.join("run/trainer_state.json")).unwrap()).unwrap();
    assert_eq!(untimed(&found), untimed(state));
    let names = fs::read_dir(directory.join("run")).unwrap().map(|entry| entry.unwrap().file_name());
    let leftovers: Vec<_> = names.filter(|name| name.to_str().unwrap().starts_with('.')).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

/// Checks that every resume starts from the last checkpoint reported as saved, or the one after it, without warnings.
fn check_journal(directory: &Path) {
    let journal = fs::read_to_string(directory.join("journal")).unwrap();
    let mut saved = 0;
    for line in journal.lines() {
        let (kind, rest) = line.split_once(' ').unwrap();
        match kind {
            "saved" => saved = rest.parse().unwrap(),
            "resumed" => {
                let step: usize = rest.parse().unwrap();
                assert!(step == saved || step == saved + 1, "resumed after step {step} of {saved}");
                saved = step;
            }
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn a_run_killed_at_random_moments_loses_nothing() {
    let wanted: usize = std::env::var("KILLS").map_or(12, |kills| kills.parse().unwrap());
    let expected = uninterrupted();
    let (mut kills, mut runs, mut moments) = (0, 0, 0);
    while kills < wanted {
        let directory = tempfile::tempdir().unwrap();
        loop {
            moments += 1;
            let mut child = spawn(directory.path(), PLAIN);
            let milliseconds = 150.0 * common::uniform(&[7, moments]);
            sleep(Duration::from_micros((1000.0 * milliseconds) as u64));
            child.kill().unwrap();
            let killed = !child.wait().unwrap().success();
            kills += usize::from(killed);
            if !killed {
                break;
            }
        }
        assert!(
            !directory.path().join("error").exists(),
            "{:?}",
            fs::read_to_string(directory.path().join("error"))
        );
        check_journal(directory.path());
        assert_equal(directory.path(), &expected);
        runs += 1;
    }
    eprintln!("{kills} kills in {runs} runs");
}

#[test]
fn a_full_disk_stops_a_run_that_can_be_resumed() {
    let directory = tempfile::tempdir().unwrap();
    // The log in a checkpoint grows with every step, until it is larger than a file may be.
    assert!(spawn(directory.path(), SMALL_FILES).wait().unwrap().success());
    let error = fs::read_to_string(directory.path().join("error")).unwrap();
    for part in ["state of step", "trainer_state.json", "too large", "last good checkpoint", "make room"] {
        assert!(error.contains(part), "{error}");
    }
    let saved = checkpoints(directory.path()).count();
    assert!(saved > 1, "the checkpoints from before are there");

    fs::remove_file(directory.path().join("error")).unwrap();
    assert!(spawn(directory.path(), PLAIN).wait().unwrap().success());
    check_journal(directory.path());
    let journal = fs::read_to_string(directory.path().join("journal")).unwrap();
    assert!(journal.contains("resumed"), "{journal}");
    assert_equal(directory.path(), &uninterrupted());
}
