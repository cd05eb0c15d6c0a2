//! Ctrl-C and SIGTERM: the step is finished and saved, and the resumed run has the same results as an
//! uninterrupted one.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::common::programs::{Ended, json, json_lines, resume, run, steps};
use crate::common::tiny::Tiny;

/// Enough steps that the signal comes before the last of them.
const RUN: &str = "--max-steps 300 --learning-rate 0.001 --save-total-limit 2";

/// Runs the program and sends it a signal once training has begun.
fn interrupt(command: &mut Command, signal: &str) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("training ") {
        assert_ne!(stderr.read_line(&mut text).unwrap(), 0, "it ended before training: {text}");
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    stderr.read_to_string(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended { stderr: text, ..Ended::new(output) }
}

#[test]
fn an_interrupted_run_saves_and_resumes_to_the_same_losses() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("whole", RUN)).stdout();

    let ended = interrupt(&mut tiny.finetune("halves", RUN), "-INT");
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let state = json(&tiny.path("halves/trainer_state.json"));
    let step = state["global_step"].as_u64().unwrap();
    assert!((1..300).contains(&step), "{step}");
    let checkpoint = tiny.path(&format!("halves/checkpoint-{step}"));
    let saved = format!("stopped after step {step} of 300, saved in {}", checkpoint.display());
    assert!(ended.stderr.contains(&saved) && ended.stderr.contains("--resume"), "{}", ended.stderr);
    assert!(checkpoint.join("adapter/adapter_model.safetensors").is_file());
    assert!(!tiny.path("halves/metrics.json").exists(), "it is not done");

    assert_eq!(json(&tiny.path("halves/run.json"))["state"], "interrupted");
    let command = format!(
        "continue with: cargo run --release --example pokemon_finetune -- --resume {}",
        tiny.path("halves").display()
    );
    assert!(ended.stderr.contains(&command), "{}", ended.stderr);

    // The flags are those of the run.
    let resumed = run(&mut resume(&tiny.path("halves")));
    assert!(resumed.stderr.contains(&format!("resumed after step {step} from")), "{}", resumed.stderr);
    resumed.stdout();
    // Every number of every step, to the last bit.
    assert_eq!(steps(&tiny.path("halves")), steps(&tiny.path("whole")));
    for file in ["metrics.json", "adapter/adapter_model.safetensors", "captions.jsonl"] {
        let [halves, whole] = ["halves", "whole"].map(|run| fs::read(tiny.path(run).join(file)).unwrap());
        assert!(halves == whole, "{file} differs");
    }
    let events = json_lines(&fs::read_to_string(tiny.path("halves/log.jsonl")).unwrap());
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((count("interrupted"), count("resumed"), count("finished")), (1, 1, 1));
}

#[test]
fn a_checkpoint_is_saved_when_an_option_ends_the_run() {
    let tiny = Tiny::new();
    let ended = interrupt(&mut tiny.finetune("out", RUN), "-TERM");
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let step = json(&tiny.path("out/trainer_state.json"))["global_step"].as_u64().unwrap();
    assert!(tiny.path(&format!("out/checkpoint-{step}")).is_dir(), "{}", ended.stderr);
}

#[test]
fn a_signal_before_training_ends_at_once() {
    let tiny = Tiny::new();
    let mut child = tiny.finetune("out", RUN).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The output folder is the last line of the set-up; pictures are encoded after it.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains(" output ") {
        assert_ne!(stdout.read_line(&mut text).unwrap(), 0, "it ended during its set-up: {text}");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(!tiny.path("out/metrics.json").exists(), "it went on");
}

#[test]
fn a_run_continues_when_standard_output_is_closed() {
    let tiny = Tiny::new();
    let mut command = tiny.finetune("out", "--num-train-epochs 2 --eval-captions 1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(tiny.path("out/report.html").is_file());
}

#[test]
fn an_interrupted_sweep_prints_the_command_that_completes_it() {
    let tiny = Tiny::new();
    let ended = interrupt(&mut tiny.finetune("sweep", &format!("{RUN} --sweep r=2,4")), "-INT");
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let sweep = tiny.path("sweep");
    let command = format!(
        "continue with: cargo run --release --example pokemon_finetune -- --resume {}",
        sweep.display()
    );
    assert!(ended.stderr.lines().any(|line| line.ends_with(&command)), "{}", ended.stderr);
    assert_eq!(json(&sweep.join("run.json"))["state"], "interrupted");
    assert!(!sweep.join("r-4").exists(), "it has not begun");

    let resumed = run(&mut resume(&sweep));
    assert!(resumed.stderr.contains("resumed after step "), "{}", resumed.stderr);
    let stdout = resumed.stdout();
    assert!(stdout.contains("2 runs compared in "), "{stdout}");
    for name in ["r-2", "r-4"] {
        assert_eq!(steps(&sweep.join(name)).len(), 300, "{name}");
    }
    assert_eq!(json(&sweep.join("run.json"))["state"], "finished");
}

#[test]
fn a_finished_run_that_is_resumed_trains_no_more_and_writes_its_results_again() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 3 --learning-rate 0.01")).stdout();
    let before = fs::read(tiny.path("out/metrics.json")).unwrap();
    fs::remove_file(tiny.path("out/metrics.json")).unwrap();
    let stdout = run(&mut resume(&tiny.path("out"))).stdout();
    let note = "is finished, after step 3: its results are written again; to train longer, give --num-train-epochs or \
                --max-steps";
    assert!(stdout.contains(note), "{stdout}");
    assert_eq!(fs::read(tiny.path("out/metrics.json")).unwrap(), before);
    assert_eq!(steps(&tiny.path("out")).len(), 3);
}
