//! Ownership of files in the output folder: a run removes and replaces only files that a run wrote.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::common::programs::{contents, example, json, json_lines, resume, run};
use crate::common::tiny::{SPLIT, Tiny};
use caption_lora::run_folder::{FolderLock, Locked};

const SHORT: &str = "--max-steps 2";
const LONG: &str = "--max-steps 2000 --save-total-limit 1";

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_finished_run_is_replaced_only_on_demand_and_foreign_files_stay() {
    let tiny = Tiny::new();
    let out = tiny.path("out");
    run(&mut tiny.finetune("out", "--max-steps 4 --eval-captions 1 --report-to csv,tensorboard")).stdout();
    assert_eq!(json(&out.join("run.json"))["state"], "finished");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::write(out.join("adapter/README.md"), "mine too").unwrap();
    let before = contents(&out);

    let message = run(&mut tiny.finetune("out", SHORT)).refusal(1);
    assert_says(
        &message,
        &["holds a finished run", "--output-dir", "--overwrite-output-dir", out.to_str().unwrap()],
    );
    // A run that would remove its own input, or that fails to begin, removes nothing.
    let overwrite = "--max-steps 2 --overwrite-output-dir";
    let message =
        run(tiny.finetune("out", overwrite).arg("--init-adapter").arg(out.join("adapter"))).refusal(1);
    assert_says(&message, &["--init-adapter", "--output-dir"]);
    run(&mut tiny.finetune("out", &format!("{overwrite} --target-modules quarry"))).refusal(1);
    fs::write(out.join(".checkpoint-0.partial"), "in the way").unwrap();
    run(&mut tiny.finetune("out", overwrite)).refusal(1);
    fs::remove_file(out.join(".checkpoint-0.partial")).unwrap();
    assert_eq!(contents(&out), before);

    // A run that fails in training leaves nothing that could be mistaken for its results.
    tiny.set_weight("git.encoder.layer.0.attention.self.query.weight", 0, 3e38);
    tiny.set_weight("git.encoder.layer.0.attention.self.key.weight", 0, 3e38);
    run(&mut tiny.finetune("out", &format!("{overwrite} --eval-strategy no --report-to csv"))).refusal(1);
    assert_eq!(
        names(&out),
        [".run.lock", "adapter", "log.csv", "log.jsonl", "notes.txt", "run.json"],
        "no checkpoint, metric, report or picture of the earlier run"
    );
    assert_eq!(names(&out.join("adapter")), ["README.md"]);
    let events = json_lines(&fs::read_to_string(out.join("log.jsonl")).unwrap());
    assert_eq!(events.iter().filter(|event| event["event"] == "started").count(), 1);
    assert_eq!(fs::read_to_string(out.join("log.csv")).unwrap(), "step,metric,value\n");
    let message = run(&mut tiny.finetune("out", SHORT)).refusal(1);
    assert_says(
        &message,
        &["holds a run that was stopped: choose another --output-dir", "--overwrite-output-dir"],
    );
    let message = run(&mut resume(&out)).refusal(1);
    assert_says(
        &message,
        &[
            "was stopped before its first checkpoint: start it again with --overwrite-output-dir; it was begun with: cargo run",
            "--eval-strategy no --report-to csv",
        ],
    );
}

#[test]
fn a_file_under_the_name_of_the_lock_that_no_run_wrote_is_kept() {
    let tiny = Tiny::new();
    let out = tiny.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".run.lock"), "my own lock\n").unwrap();
    for flags in [SHORT, "--max-steps 2 --overwrite-output-dir", "--max-steps 2 --sweep r=2,4"] {
        let message = run(&mut tiny.finetune("out", flags)).refusal(1);
        assert_says(&message, &[out.join(".run.lock").to_str().unwrap(), "move it away", "--output-dir"]);
    }
    assert_eq!(fs::read_to_string(out.join(".run.lock")).unwrap(), "my own lock\n");
    assert_eq!(names(&out), [".run.lock"]);

    // A default folder with such a file is not free.
    fs::create_dir(tiny.path("runs")).unwrap();
    fs::rename(&out, tiny.path("runs/pokemon")).unwrap();
    let mut command = example("pokemon_finetune");
    command.current_dir(tiny.path("")).args(["--split", SPLIT, "--max-steps", "1", "--threads", "1"]);
    command.args(["--model", "checkpoint", "--dataset", "drawings.parquet"]);
    assert_says(&run(&mut command).stdout(), &["output  runs/pokemon-2\n"]);
    assert_eq!(names(&tiny.path("runs/pokemon")), [".run.lock"]);
}

#[test]
fn a_run_that_fails_to_begin_leaves_no_new_folder() {
    let tiny = Tiny::new();
    let fails = "--target-modules quarry";
    for (output, flags) in [
        ("out", fails),
        ("new/and/deep", fails),
        ("sweep", "--target-modules quarry --sweep r=2,4"),
        ("sweep", "--sweep r=2,4 --caption-column none"),
    ] {
        run(&mut tiny.finetune(output, flags)).refusal(1);
        let top = tiny.path(output.split('/').next().unwrap());
        assert!(!top.exists(), "{flags}: {:?}", fs::read_dir(&top));
    }
    // A folder that existed before stays, with its contents.
    fs::create_dir_all(tiny.path("out")).unwrap();
    fs::create_dir_all(tiny.path("mine/too")).unwrap();
    for output in ["out", "mine"] {
        run(&mut tiny.finetune(output, fails)).refusal(1);
    }
    assert!(names(&tiny.path("out")).is_empty() && tiny.path("mine/too").is_dir());
}

#[test]
fn a_name_that_is_taken_is_an_error_before_anything_is_done() {
    let tiny = Tiny::new();
    let out = tiny.path("out");
    // Regression: a user's own files under these names were removed.
    for name in ["model", "adapter"] {
        fs::create_dir_all(out.join(name)).unwrap();
        fs::write(out.join(name).join("model.safetensors"), "mine").unwrap();
    }
    for name in ["report.html", "metrics.json", "log.csv"] {
        fs::write(out.join(name), "mine").unwrap();
    }
    let before = contents(&out);
    for flags in [SHORT, "--max-steps 2 --overwrite-output-dir"] {
        let message = run(&mut tiny.finetune("out", flags)).refusal(1);
        assert_says(
            &message,
            &[
                "no run is recorded to have written: adapter, metrics.json, report.html; move them away",
                "--output-dir",
            ],
        );
    }
    let message = run(&mut tiny.finetune("out", "--tune full --report-to csv")).refusal(1);
    assert_says(&message, &["log.csv, model, metrics.json, report.html"]);
    assert_eq!(contents(&out), before);

    // Files under other names than the run's are left alone.
    let other = tiny.path("other");
    fs::create_dir_all(other.join("model")).unwrap();
    fs::write(other.join("thesis.tex"), "mine").unwrap();
    run(&mut tiny.finetune("other", SHORT)).stdout();
    run(&mut tiny.finetune("other", "--max-steps 1 --overwrite-output-dir")).stdout();
    assert_eq!(fs::read_to_string(other.join("thesis.tex")).unwrap(), "mine");
    assert!(
        other.join("model").is_dir()
            && other.join("checkpoint-1").is_dir()
            && !other.join("checkpoint-2").exists()
    );
}

#[test]
fn checkpoints_of_others_are_foreign() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("first", SHORT)).stdout();
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for (path, bytes) in contents(from) {
            let to = to.join(path.strip_prefix(from).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, bytes).unwrap();
        }
    };
    copy(&tiny.path("first/checkpoint-2"), &tiny.path("second/checkpoint-7"));
    let message = run(&mut tiny.finetune("second", SHORT)).refusal(1);
    assert_says(&message, &["checkpoints that are not of this run: checkpoint-7; move them away"]);
    fs::rename(tiny.path("second/checkpoint-7"), tiny.path("aside")).unwrap();

    run(&mut tiny.finetune("second", SHORT)).stdout();
    copy(&tiny.path("aside"), &tiny.path("second/checkpoint-7"));
    for mut command in [
        tiny.finetune("second", "--max-steps 3 --overwrite-output-dir"),
        resume(&tiny.path("second/checkpoint-2")),
    ] {
        assert_says(&run(&mut command).refusal(1), &["not of this run: checkpoint-7"]);
    }
    assert!(tiny.path("second/checkpoint-7/complete.json").exists());
    // Hugging Face's Trainer names its checkpoints the same way.
    fs::create_dir_all(tiny.path("third/checkpoint-500")).unwrap();
    fs::write(tiny.path("third/checkpoint-500/trainer_state.json"), "{}").unwrap();
    assert_says(&run(&mut tiny.finetune("third", SHORT)).refusal(1), &["checkpoint-500"]);
}

#[test]
fn two_runs_cannot_have_one_folder() {
    let tiny = Tiny::new();
    let mut child = tiny.finetune("out", LONG).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains(" output ") {
        assert_ne!(stdout.read_line(&mut text).unwrap(), 0, "it ended during its set-up: {text}");
    }
    let who = format!("another run (process {}) is writing to {}", child.id(), tiny.path("out").display());
    for flags in [SHORT, "--max-steps 2 --overwrite-output-dir"] {
        assert_says(&run(&mut tiny.finetune("out", flags)).refusal(1), &[&who, "--output-dir"]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock of an ended process is free.
    run(&mut tiny.finetune("out", "--max-steps 1 --overwrite-output-dir")).stdout();
    let message = run(&mut tiny.finetune("out", SHORT)).refusal(1);
    assert_says(&message, &["holds a finished run"]);
    // For a run that should be continued, another folder is not suggested.
    let Locked::Here(lock) = FolderLock::acquire(&tiny.path("out")).unwrap() else { panic!("it is free") };
    let message = run(&mut resume(&tiny.path("out"))).refusal(1);
    let who = format!("another run (process {}) is writing to ", std::process::id());
    assert_says(&message, &[&who, "wait for it, or stop it"]);
    assert!(!message.contains("--output-dir"), "{message}");
    drop(lock);
}

#[test]
fn without_an_output_folder_the_next_free_one_is_taken() {
    let tiny = Tiny::new();
    let run_here = |flags: &str| {
        let mut command = example("pokemon_finetune");
        command.current_dir(tiny.path("")).args(["--split", SPLIT, "--threads", "1"]);
        command.args(["--model", "checkpoint", "--dataset", "drawings.parquet"]);
        run(command.args(flags.split_whitespace()))
    };
    let first = run_here("--max-steps 3").stdout();
    assert!(first.contains("output  runs/pokemon\n") && !first.contains("note: runs/"), "{first}");
    let second = run_here("--max-steps 1").stdout();
    assert_says(
        &second,
        &[
            "note: runs/pokemon holds a finished run, so this run is written to runs/pokemon-2",
            "output  runs/pokemon-2\n",
            "written to runs/pokemon-2: report.html",
        ],
    );
    // A run that fails before it trains leaves the folder free.
    run_here("--target-modules quarry").refusal(1);
    assert!(run_here("--max-steps 1").stdout().contains("output  runs/pokemon-3\n"));

    // The newest run is continued, or the one with the named checkpoint.
    let resumed = run_here("--resume --max-steps 2");
    assert_says(
        &resumed.stderr,
        &["resumed after step 1 from runs/pokemon-3/checkpoint-1", "--max-steps: 1 -> 2"],
    );
    let resumed = run_here("--resume checkpoint-3");
    assert_says(&resumed.stderr, &["resumed after step 3 from runs/pokemon/checkpoint-3"]);
    assert_eq!(resumed.code, Some(0));
    // From another working directory, the model and the dataset are still found.
    let elsewhere = run(resume(&tiny.path("runs/pokemon")).current_dir(tiny.path("checkpoint")));
    assert_says(&elsewhere.stderr, &["resumed after step 3"]);
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.stderr);

    let replaced = run_here("--max-steps 1 --overwrite-output-dir").stdout();
    assert!(replaced.contains("output  runs/pokemon\n"), "{replaced}");
}

#[test]
fn a_run_without_checkpoints_cannot_be_resumed_and_says_why() {
    let tiny = Tiny::new();
    let mut command = example("pokemon_finetune");
    command.current_dir(tiny.path("")).args(["--split", SPLIT, "--model", "checkpoint"]);
    command.args(["--dataset", "drawings.parquet", "--max-steps", "1", "--eval-strategy", "no"]);
    run(&mut command).stdout();
    let message = run(example("pokemon_finetune").current_dir(tiny.path("")).arg("--resume")).refusal(1);
    assert_says(
        &message,
        &["the run in runs/pokemon is finished and saved no checkpoint", "--save-strategy"],
    );
}

#[test]
fn a_sweep_is_written_where_there_is_room_for_all_of_it() {
    let tiny = Tiny::new();
    let flags = "--max-steps 1 --sweep r=2,4";
    run(&mut tiny.finetune("sweep", flags)).stdout();
    let message = run(&mut tiny.finetune("sweep", flags)).refusal(1);
    assert_says(&message, &["holds a finished sweep", "--overwrite-output-dir"]);
    let message = run(&mut tiny.finetune("sweep", "--max-steps 1 --overwrite-output-dir")).refusal(1);
    assert_says(&message, &["holds a sweep, and a single run cannot replace it"]);

    // The second run's folder is taken, which is detected before the first run begins.
    fs::create_dir_all(tiny.path("other/r-4")).unwrap();
    File::create(tiny.path("other/r-4/report.html")).unwrap();
    let message = run(&mut tiny.finetune("other", flags)).refusal(1);
    assert_says(&message, &["r-4 contains files that this run would overwrite", "report.html"]);
    assert!(!tiny.path("other/r-2/checkpoint-1").exists());

    run(&mut tiny.finetune("sweep", &format!("{flags} --overwrite-output-dir"))).stdout();
    assert!(tiny.path("sweep/compare.html").is_file());
}
