//! A sweep that was stopped is completed by `--resume`, with the numbers of an undisturbed one.

use std::fs;
use std::path::Path;

use crate::common::programs::{contents, example, json, resume, run, steps};
use crate::common::tiny::Tiny;

/// Two epochs of two steps, with a checkpoint after each.
const FLAGS: &str = "--num-train-epochs 2 --learning-rate 0.01 --sweep r=2,4,8";
const RUNS: [&str; 3] = ["r-2", "r-4", "r-8"];

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

fn set_state(folder: &Path, state: &str) {
    let path = folder.join("run.json");
    let mut record = json(&path);
    record["state"] = state.into();
    fs::write(path, record.to_string()).unwrap();
}

/// Removes what a run writes after its first checkpoint, as if it was killed.
fn kill(folder: &Path) {
    fs::remove_dir_all(folder.join("checkpoint-4")).unwrap();
    fs::remove_dir_all(folder.join("adapter")).unwrap();
    for name in ["metrics.json", "captions.jsonl", "loss.svg", "report.html", "captions.svg"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    set_state(folder, "running");
}

#[test]
fn a_killed_sweep_is_completed_with_the_numbers_of_an_undisturbed_one() {
    let tiny = Tiny::new();
    for name in ["whole", "killed"] {
        run(&mut tiny.finetune(name, FLAGS)).stdout();
    }
    let [whole, killed] = ["whole", "killed"].map(|name| tiny.path(name));
    kill(&killed.join("r-4"));
    fs::remove_dir_all(killed.join("r-8")).unwrap();
    fs::remove_file(killed.join("compare.html")).unwrap();
    set_state(&killed, "running");
    let finished = contents(&killed.join("r-2"));

    // A new sweep is refused, with the command that continues this one.
    let message = run(&mut tiny.finetune("killed", FLAGS)).refusal(1);
    assert_says(&message, &["holds a sweep that was stopped: continue it with --resume ", "killed"]);

    let ended = run(&mut resume(&killed));
    assert_says(&ended.stderr, &["resumed after step 2 from"]);
    let stdout = ended.stdout();
    assert_says(&stdout, &["run 1 of 3: r-2 (finished)", "run 2 of 3: r-4\n", "run 3 of 3: r-8\n"]);
    assert_says(&stdout, &["3 runs compared in "]);
    assert_eq!(contents(&killed.join("r-2")), finished, "a finished run stays as it is");
    for name in RUNS {
        assert_eq!(steps(&killed.join(name)), steps(&whole.join(name)), "{name}");
        for file in ["metrics.json", "captions.jsonl", "adapter/adapter_model.safetensors"] {
            let [a, b] = [&killed, &whole].map(|folder| fs::read(folder.join(name).join(file)).unwrap());
            assert!(a == b, "{file} of {name} differs");
        }
    }
    assert_eq!(json(&killed.join("run.json"))["state"], "finished");
    assert_says(&fs::read_to_string(killed.join("compare.html")).unwrap(), &["3 runs compared", ">r-8</th>"]);
}

#[test]
fn a_sweep_is_found_without_its_name_and_runs_without_a_checkpoint_begin_again() {
    let tiny = Tiny::new();
    let here = |arguments: &str| {
        let mut command = example("pokemon_finetune");
        command.current_dir(tiny.path("")).args(arguments.split_whitespace());
        run(&mut command)
    };
    here(
        "--model checkpoint --dataset drawings.parquet --split 0.6,0.2,0.2 --threads 1 --num-train-epochs 1 \
         --sweep r=2,4",
    )
    .stdout();
    let second = tiny.path("runs/pokemon/r-4");
    let before = fs::read(second.join("metrics.json")).unwrap();
    // It was stopped before its first checkpoint.
    fs::remove_dir_all(second.join("checkpoint-2")).unwrap();
    set_state(&second, "running");
    for arguments in ["--resume", "--resume --output-dir runs/pokemon --sweep r=2,4"] {
        let stdout = here(arguments).stdout();
        assert_says(&stdout, &["run 1 of 2: r-2 (finished)", "2 runs compared in runs/pokemon/compare.html"]);
        assert_eq!(fs::read(second.join("metrics.json")).unwrap(), before);
    }
}

#[test]
fn a_resumed_sweep_has_the_values_that_it_began_with_and_may_train_longer() {
    let tiny = Tiny::new();
    let sweep = tiny.path("sweep");
    run(&mut tiny.finetune("sweep", "--num-train-epochs 1 --sweep r=2,4")).stdout();
    let before = contents(&sweep);
    let resumed = |flags: &str| run(resume(&sweep).args(flags.split_whitespace()));
    let message = resumed("--sweep r=2,8").refusal(1);
    assert_says(&message, &["--sweep was r=2,4 and is now r=2,8: leave it out"]);
    let message = resumed("--output-dir elsewhere").refusal(1);
    assert_says(&message, &["continued in its own folder", "leave out --output-dir elsewhere"]);
    assert_says(&resumed("--lora-r 8").refusal(2), &["--lora-r"]);
    let message = run(resume(&sweep.join("r-2")).args(["--sweep", "r=2,4"])).refusal(1);
    assert_says(&message, &["--sweep begins several runs, and --resume continues the one in "]);
    let kept: Vec<_> = before.iter().filter(|(path, _)| !path.ends_with(".run.lock")).collect();
    let after = contents(&sweep);
    assert!(kept.iter().all(|file| after.contains(file)), "a refusal changes nothing");

    resumed("--num-train-epochs 3").stdout();
    for name in ["r-2", "r-4"] {
        assert_eq!(json(&sweep.join(name).join("trainer_state.json"))["global_step"], 6, "{name}");
    }
    // The new length is that of the sweep now.
    let second = sweep.join("r-4");
    fs::remove_dir_all(&second).unwrap();
    resumed("").stdout();
    assert_eq!(json(&second.join("trainer_state.json"))["global_step"], 6);
}

#[test]
fn a_sweep_of_an_earlier_version_names_the_runs_to_continue() {
    let tiny = Tiny::new();
    let sweep = tiny.path("sweep");
    run(&mut tiny.finetune("sweep", "--max-steps 1 --sweep r=2,4")).stdout();
    let path = sweep.join("run.json");
    let mut record = json(&path);
    record["options"].as_object_mut().unwrap().remove("sweep").unwrap();
    fs::write(&path, record.to_string()).unwrap();
    let message = run(&mut resume(&sweep)).refusal(1);
    let first = format!("continue each of its runs, --resume {}", sweep.join("r-2").display());
    assert_says(&message, &["an earlier version began the sweep", &first]);
    // Without any record, the runs are named too.
    fs::remove_file(&path).unwrap();
    let message = run(&mut resume(&sweep)).refusal(1);
    let first = format!("continue one of the runs in it, --resume {}", sweep.join("r-2").display());
    assert_says(&message, &["it has no checkpoint-N", &first]);
}
