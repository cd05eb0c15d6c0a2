//! Resuming after a folder was moved, or after the record of the run was lost.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::programs::{Ended, example, json, resume, run, steps};
use crate::common::tiny::{SPLIT, Tiny};

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

/// A finished run whose last checkpoint is gone, so that its second epoch is left.
fn half(tiny: &Tiny, output: &str) -> PathBuf {
    run(&mut tiny.finetune(output, "--num-train-epochs 2 --learning-rate 0.01")).stdout();
    let folder = tiny.path(output);
    fs::remove_dir_all(folder.join("checkpoint-4")).unwrap();
    folder
}

#[test]
fn a_relative_path_that_is_gone_is_not_taken_for_a_repository_of_the_hub() {
    let tiny = Tiny::new();
    let at = |directory: &str, arguments: &[&str]| -> Ended {
        let mut command = example("pokemon_finetune");
        command.current_dir(tiny.path(directory)).env("HF_HOME", tiny.path("hf"));
        run(command.env("HF_HUB_OFFLINE", "1").args(arguments))
    };
    // Both paths look like `owner/name`.
    fs::create_dir(tiny.path("my")).unwrap();
    fs::rename(&tiny.dataset, tiny.path("my/drawings.parquet")).unwrap();
    fs::rename(&tiny.checkpoint, tiny.path("my/model")).unwrap();
    let begin =
        ["--model", "my/model", "--dataset", "my/drawings.parquet", "--split", SPLIT, "--threads", "1"];
    at("", &[&begin[..], &["--num-train-epochs", "1", "--output-dir", "out"]].concat()).stdout();

    fs::rename(tiny.path("my"), tiny.path("ours")).unwrap();
    let out = tiny.path("out").display().to_string();
    for directory in ["", "ours"] {
        let message = at(directory, &["--resume", &out]).refusal(2);
        assert_says(
            &message,
            &[
                "was begun with --dataset my/drawings.parquet, and ",
                " has no my/drawings.parquet any more: give --dataset and its new place",
            ],
        );
        assert!(!message.contains("HF_HUB_OFFLINE"), "{message}");
    }
    let moved = ["--resume", &out, "--dataset", "ours/drawings.parquet"];
    let message = at("", &moved).refusal(2);
    assert_says(&message, &["was begun with --model my/model, and ", "give --model and its new place"]);
    let moved = [&moved[..], &["--model", "ours/model", "--num-train-epochs", "2"]].concat();
    at("", &moved).stdout();
    assert_eq!(steps(&tiny.path("out")).len(), 4);
}

#[test]
fn a_lost_or_damaged_record_is_written_again_from_the_checkpoint() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("whole", "--num-train-epochs 2 --learning-rate 0.01")).stdout();
    let check = |name: &str, lose: &dyn Fn(&Path), words: &[&str]| {
        let folder = half(&tiny, name);
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        lose(&folder.join("run.json"));
        let ended = run(&mut resume(&folder));
        assert_says(&ended.stderr, &["warning: ", "run.json", "checkpoint-2", "resumed after step 2"]);
        assert_says(&ended.stderr, words);
        ended.stdout();
        assert_eq!(steps(&folder), steps(&tiny.path("whole")));
        assert_eq!(json(&folder.join("run.json"))["state"], "finished");
        assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
        // It can be replaced as any run can.
        run(&mut tiny.finetune(name, "--max-steps 1 --overwrite-output-dir")).stdout();
        assert!(folder.join("notes.txt").is_file() && !folder.join("checkpoint-2").exists());
        folder
    };
    let missing = check("lost", &|record| fs::remove_file(record).unwrap(), &["is missing"]);
    assert!(!missing.join("run.json.damaged").exists());
    let cut = |record: &Path| fs::write(record, "{\"run\": \"a").unwrap();
    let damaged = check("damaged", &cut, &["is damaged and will be kept as run.json.damaged"]);
    assert_eq!(fs::read_to_string(damaged.join("run.json.damaged")).unwrap(), "{\"run\": \"a");
}

#[test]
fn a_damaged_record_without_checkpoints_says_what_to_do() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out");
    fs::remove_dir_all(folder.join("checkpoint-2")).unwrap();
    let finished = run(&mut resume(&folder)).refusal(1);
    let adapter = format!("--init-adapter {} begins a new run", folder.join("adapter").display());
    assert_says(&finished, &["is finished and saved no checkpoint", &adapter]);
    fs::write(folder.join("run.json"), "{").unwrap();
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["it has no checkpoint-N, and its run.json is damaged", "another --output-dir"]);
    fs::remove_file(folder.join("run.json")).unwrap();
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["there is no run to resume in", "it has no checkpoint-N; give --resume "]);
}
