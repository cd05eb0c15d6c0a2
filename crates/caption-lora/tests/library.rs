//! The recipe as a program runs it: with plain options, without a command line. It is one test, as a process has one session.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use caption_lora::finetune::{self, Ending, Request, Session};
use caption_lora::options::{
    DataOptions, EvalStrategy, Finetune, LoraOptions, RunOptions, SaveStrategy, TrainingOptions,
};
use caption_lora::resume::Resume;
use serde_json::Value;

use common::programs::{program, run};

/// A run of `max_steps` steps in a folder.
fn options(folder: &Path, max_steps: usize) -> Finetune {
    Finetune {
        data: DataOptions { subset: Some(20), output_dir: Some(folder.to_owned()), ..Default::default() },
        training: TrainingOptions {
            max_steps: Some(max_steps),
            eval_strategy: EvalStrategy::No,
            ..Default::default()
        },
        run: RunOptions {
            save_strategy: Some(SaveStrategy::Steps),
            save_steps: Some(1),
            ..Default::default()
        },
        lora: LoraOptions { lora_r: Some(4), ..Default::default() },
        ..Default::default()
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_of_plain_options_is_that_of_the_flags_and_both_continue_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut session = Session::new(Some(2)).unwrap();
    let finetune = |request: &Request, session: &mut Session| {
        assert_eq!(finetune::run(request, session).unwrap(), Ending::Finished);
    };
    finetune(&Request::new(options(&path("library"), 2)), &mut session);
    let record = json(&path("library/run.json"));
    let command = record["options"]["command"].as_str().unwrap();
    assert!(
        command.starts_with("caption-lora finetune --eval-strategy=no --lora-r=4 --max-steps=2 "),
        "{command}"
    );

    let mut flags = program();
    flags.args(["finetune", "--threads", "2", "--subset", "20", "--max-steps", "2", "--eval-strategy", "no"]);
    flags.args(["--save-strategy", "steps", "--save-steps", "1", "--lora-r", "4", "--output-dir"]);
    run(flags.arg(path("flags"))).stdout();
    assert_eq!(json(&path("library/metrics.json")), json(&path("flags/metrics.json")));

    // A program can continue a run of the command line, and the command line a run of a program.
    let request = Request::resuming(options(&path("flags"), 3), &Resume::From(path("flags"))).unwrap();
    finetune(&request, &mut session);
    let mut flags = program();
    flags.args(["finetune", "--threads", "2", "--max-steps", "3", "--resume"]);
    run(flags.arg(path("library"))).stdout();
    let metrics = json(&path("library/metrics.json"));
    assert_eq!(metrics, json(&path("flags/metrics.json")));
    assert!(path("library/checkpoint-3").is_dir() && path("flags/checkpoint-3").is_dir());

    let other = Finetune {
        lora: LoraOptions { lora_r: Some(8), ..Default::default() },
        ..options(&path("flags"), 4)
    };
    let request = Request::resuming(other, &Resume::From(path("flags"))).unwrap();
    let refusal = finetune::run(&request, &mut session).unwrap_err().to_string();
    assert!(refusal.contains("--lora-r was 4 and is now 8"), "{refusal}");
}
