//! `--resume` continues the same run without further flags, or fails with an error that names the flag.

use std::fs;
use std::path::Path;

use crate::common::programs::{contents, example, json, json_lines, resume, run, steps};
use crate::common::tiny::{Tiny, png, write_columns};

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

/// A finished run whose newest checkpoint is from before its last epoch.
fn half(tiny: &Tiny, output: &str, flags: &str) -> std::path::PathBuf {
    run(&mut tiny.finetune(output, &format!("--num-train-epochs 4 {flags}"))).stdout();
    let folder = tiny.path(output);
    for step in [6, 8] {
        fs::remove_dir_all(folder.join(format!("checkpoint-{step}"))).unwrap();
    }
    folder
}

#[test]
fn a_run_of_many_flags_is_resumed_without_any() {
    let tiny = Tiny::new();
    let flags = "--learning-rate 0.01 --lora-r 4 --lora-alpha 6 --lora-dropout 0.2 --seed 7 --split-seed 3 --no-shuffle \
         --label-smoothing-factor 0.1 --per-device-train-batch-size 3 --gradient-accumulation-steps 2 --padding max-length \
         --target-modules query,value --hidden-dropout 0.3 --optim sgd --sgd-momentum 0.5 --report-to csv --weight-decay 0.1";
    run(&mut tiny.finetune("whole", &format!("--num-train-epochs 4 {flags}"))).stdout();
    let halves = half(&tiny, "halves", flags);
    let resumed = run(&mut resume(&halves));
    assert_says(&resumed.stderr, &["resumed after step 4 from"]);
    assert!(!resumed.stderr.contains("changed arguments"), "{}", resumed.stderr);
    assert_eq!(steps(&halves), steps(&tiny.path("whole")));
    for file in
        ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "metrics.json", "captions.jsonl"]
    {
        let [halves, whole] = ["halves", "whole"].map(|run| fs::read(tiny.path(run).join(file)).unwrap());
        assert!(halves == whole, "{file} differs");
    }
    // Its report has the command that reproduces it, and its log has each step once.
    let report = fs::read_to_string(halves.join("report.html")).unwrap();
    assert!(report.contains("--label-smoothing-factor 0.1") && !report.contains("--resume"));
    let events = json_lines(&fs::read_to_string(halves.join("log.jsonl")).unwrap());
    let logged: Vec<_> =
        events.iter().filter(|event| event["loss"].is_number()).map(|event| event["step"].clone()).collect();
    assert_eq!(logged, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn every_flag_that_decides_the_numbers_is_refused_with_both_values() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out", "--learning-rate 0.01");
    let before = contents(&folder);
    for (flags, words) in [
        ("--lora-alpha 64", "--lora-alpha was 32 and is now 64"),
        ("--lora-r 8", "--lora-r was 16 and is now 8"),
        ("--lora-dropout 0", "--lora-dropout was 0.05 and is now 0"),
        ("--target-modules query,value", "--target-modules was query,key,value,dense and is now query,value"),
        ("--tune both", "--tune was text and is now both"),
        ("--hidden-dropout 0.5", "--hidden-dropout was the checkpoint's own and is now 0.5"),
        ("--split-seed 1", "--split-seed was 42 and is now 1"),
        ("--split 0.8,0.1,0.1", "--split was 0.6,0.2,0.2 and is now 0.8,0.1,0.1"),
        ("--no-shuffle", "--no-shuffle was false and is now true"),
        ("--seed 1", "--seed was 42 and is now 1"),
        ("--label-smoothing-factor 0.2", "--label-smoothing-factor was 0 and is now 0.2"),
        ("--dtype bf16", "--dtype was f32 and is now bf16"),
        ("--dtype int8", "--dtype was f32 and is now int8"),
        ("--padding max-length", "--padding was longest and is now max-length"),
        ("--per-device-train-batch-size 1", "--per-device-train-batch-size was 2 and is now 1"),
        ("--gradient-accumulation-steps 3", "--gradient-accumulation-steps was 4 and is now 3"),
        ("--optim sgd", "--optim was adamw and is now sgd"),
        ("--subset 10", "--subset was all 20 rows and is now 10"),
        ("--model embedded", "--model was "),
        ("--dataset embedded", "--dataset was "),
    ] {
        let message = run(resume(&folder).args(flags.split(' '))).refusal(1);
        assert_says(&message, &["cannot resume from", "checkpoint-4", words, "leave these flags out"]);
        assert!(!message.contains("lora_A"), "{flags}: {message}");
    }
    let tuned = run(resume(&folder).args(["--tune", "full"])).refusal(1);
    assert!(!tuned.contains("was  and"), "{tuned}");
    let both = run(resume(&folder).args(["--lora-r", "8", "--seed", "1"])).refusal(1);
    assert_says(&both, &["--lora-r was 16 and is now 8; --seed was 42 and is now 1; leave"]);
    assert_eq!(contents(&folder), before, "a refusal changes nothing");
}

#[test]
fn content_that_changed_under_the_same_name_is_refused() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out", "");
    let dataset = fs::read(&tiny.dataset).unwrap();
    // There is one row more.
    let captions = || (0..21).map(|row| format!("a cat {row}").into_bytes()).collect::<Vec<_>>();
    write_columns(&tiny.dataset, (0..21).map(|row| png(row % 20)).collect(), captions());
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["--dataset had 20 rows, has 21", "start a new run"]);
    // One caption is different.
    let captions = || (0..20).map(|row| format!("a cat {row}").into_bytes()).collect::<Vec<_>>();
    write_columns(&tiny.dataset, (0..20).map(png).collect(), captions());
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["the content of --dataset (", "has changed", "start a new run"]);
    fs::write(&tiny.dataset, dataset).unwrap();

    let processor = tiny.checkpoint.join("preprocessor_config.json");
    let text = fs::read_to_string(&processor).unwrap();
    fs::write(&processor, text.replace("\"do_normalize\":true", "\"do_normalize\":false")).unwrap();
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["the content of the image processor of --model ("]);
    fs::write(&processor, text).unwrap();

    tiny.set_weight("git.encoder.layer.0.attention.self.query.weight", 0, 0.5);
    let message = run(&mut resume(&folder)).refusal(1);
    assert_says(&message, &["the content of --model ("]);
}

#[test]
fn a_model_and_a_dataset_may_move() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out", "");
    fs::rename(&tiny.checkpoint, tiny.path("elsewhere")).unwrap();
    fs::rename(&tiny.dataset, tiny.path("elsewhere.parquet")).unwrap();
    let message = run(&mut resume(&folder)).refusal(2);
    assert_says(
        &message,
        &["was begun with --dataset", tiny.dataset.to_str().unwrap(), "give --dataset and"],
    );
    let mut command = resume(&folder);
    command.arg("--model").arg(tiny.path("elsewhere")).arg("--dataset").arg(tiny.path("elsewhere.parquet"));
    // The order of these names has no meaning.
    command.args(["--target-modules", "dense,key,query,value"]);
    run(&mut command).stdout();
}

#[test]
fn changes_allowed_on_resume_are_reported_and_applied() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out", "--max-steps 8 --lr-scheduler-type cosine --min-lr-rate 0.1");
    // --max-steps and --min-lr-rate are replaced by the new flags.
    let flags = "--num-train-epochs 5 --lr-scheduler-type constant --per-device-eval-batch-size 3 --logging-steps 2 --max-time 1h";
    let resumed = run(resume(&folder).args(flags.split(' ')));
    let reported = [
        "the run continues with changed arguments",
        "--num-train-epochs: 4.0 -> 5.0",
        "--max-steps: 8 -> none",
        "--lr-scheduler-type: cosine -> constant_with_warmup",
        "--min-lr-rate: 0.1 -> 0.0",
        "--logging-steps: 1 -> 2",
        "--max-time: none -> 3600.0",
    ];
    assert_says(&resumed.stderr, &reported);
    let stdout = resumed.stdout();
    assert_says(&stdout, &["epochs  5\n"]);
    assert_eq!(json(&folder.join("trainer_state.json"))["global_step"], 10);
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("--num-train-epochs=5") && !report.contains("--max-steps"));
    // Flags of a resumed run are saved too.
    let again = run(&mut resume(&folder));
    assert!(!again.stderr.contains("changed arguments"), "{}", again.stderr);
}

#[test]
fn a_run_that_began_with_an_adapter_is_resumed_without_it() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("first", "--max-steps 2 --lora-r 4 --lora-alpha 20 --learning-rate 0.01"))
        .stdout();
    let adapter = tiny.path("first/adapter");
    let begin = |output: &str| {
        let mut command = tiny.finetune(output, "--num-train-epochs 4 --learning-rate 0.01 --init-adapter");
        run(command.arg(&adapter)).stdout();
    };
    begin("whole");
    begin("halves");
    let halves = tiny.path("halves");
    for step in [6, 8] {
        fs::remove_dir_all(halves.join(format!("checkpoint-{step}"))).unwrap();
    }
    let message = run(resume(&halves).args(["--lora-alpha", "32"])).refusal(1);
    assert_says(&message, &["--lora-alpha 32", "20"]);
    let another = run(resume(&halves).arg("--init-adapter").arg(tiny.path("whole/adapter"))).refusal(1);
    assert_says(&another, &["--init-adapter was ", "first/adapter and is now "]);

    fs::remove_dir_all(&adapter).unwrap();
    let resumed = run(&mut resume(&halves));
    assert_says(&resumed.stderr, &["resumed after step 4"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(steps(&halves), steps(&tiny.path("whole")));
    assert_eq!(json(&halves.join("adapter/adapter_config.json"))["lora_alpha"], 20);
}

#[test]
fn runs_and_checkpoints_are_found_by_any_name_or_reported() {
    let tiny = Tiny::new();
    let folder = half(&tiny, "out", "");
    let shown = folder.display().to_string();
    let refusal = |arguments: &[&Path]| {
        run(example("pokemon_finetune").current_dir(tiny.path("")).args(arguments)).refusal(1)
    };
    let nothing = refusal(&["--resume".as_ref()]);
    assert_says(&nothing, &["there is no run to resume in runs/pokemon", "--resume DIR"]);
    let nothing = refusal(&["--resume".as_ref(), "--output-dir".as_ref(), "none".as_ref()]);
    assert_says(&nothing, &["cannot resume the run in none", "no such folder"]);
    let missing = refusal(&["--resume".as_ref(), &folder.join("checkpoint-6")]);
    assert_says(&missing, &["checkpoint-6: there is no such folder", "has checkpoint-2, checkpoint-4"]);
    let missing = refusal(&["--resume".as_ref(), "checkpoint-9".as_ref(), "--output-dir".as_ref(), &folder]);
    assert_says(&missing, &["--resume checkpoint-9:", "has checkpoint-2, checkpoint-4"]);
    let elsewhere = refusal(&["--resume".as_ref(), "checkpoint-4".as_ref()]);
    assert_says(
        &elsewhere,
        &["--resume checkpoint-4: there is no such folder here; give --resume out/checkpoint-4"],
    );
    let nowhere = refusal(&["--resume".as_ref(), "checkpoint-9".as_ref()]);
    assert_says(&nowhere, &["give its whole path, such as --resume runs/pokemon/checkpoint-9"]);
    let inside = refusal(&["--resume".as_ref(), &folder.join("adapter")]);
    assert_says(&inside, &["is a folder inside a run", &format!("--resume {shown}")]);
    let other = refusal(&["--resume".as_ref(), &tiny.checkpoint]);
    assert_says(&other, &["there is no run to resume in", "it has no checkpoint-N"]);

    for arguments in [
        vec!["--resume".to_owned(), shown.clone()],
        vec!["--resume".to_owned(), format!("{shown}/checkpoint-4/")],
        vec!["--resume".to_owned(), "checkpoint-4".to_owned(), "--output-dir".to_owned(), shown.clone()],
        vec!["--resume".to_owned(), "--output-dir".to_owned(), shown.clone()],
    ] {
        for step in [6, 8] {
            fs::remove_dir_all(folder.join(format!("checkpoint-{step}"))).ok();
        }
        let resumed = run(example("pokemon_finetune").current_dir(tiny.path("")).args(&arguments));
        assert_says(&resumed.stderr, &["resumed after step 4 from"]);
        assert_eq!(resumed.code, Some(0), "{arguments:?}: {}", resumed.stderr);
    }

    // With the run's folder as the working directory, and with a wrong one.
    let here = |arguments: &[&str]| run(example("pokemon_finetune").current_dir(&folder).args(arguments));
    assert_says(&here(&["--resume"]).stderr, &["resumed after step 8 from"]);
    let missing = here(&["--resume", "checkpoint-9"]).refusal(1);
    assert_says(
        &missing,
        &["--resume checkpoint-9: there is no such folder; this folder has checkpoint-2, "],
    );
    let file = here(&["--resume", "checkpoint-4/complete.json"]).refusal(1);
    assert_says(&file, &["is a file: give --resume checkpoint-4"]);
    let inside = refusal(&["--resume".as_ref(), &folder.join("checkpoint-4/adapter")]);
    assert_says(&inside, &["inside a checkpoint", &format!("--resume {shown}/checkpoint-4")]);
    fs::rename(folder.join("checkpoint-4"), folder.join("best")).unwrap();
    let renamed = refusal(&["--resume".as_ref(), &folder.join("best")]);
    assert_says(
        &renamed,
        &["is a checkpoint under another name: to resume from it, call the folder checkpoint-4"],
    );
    fs::rename(folder.join("best"), folder.join("checkpoint-4")).unwrap();

    // Resuming into another folder leaves the first one unchanged.
    let before = contents(&folder);
    let mut command = resume(&folder.join("checkpoint-4"));
    let resumed = run(command.arg("--output-dir").arg(tiny.path("branch")));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(steps(&tiny.path("branch")), steps(&folder));
    assert_eq!(contents(&folder), before);
}

#[test]
fn damaged_checkpoints_are_skipped_and_it_is_an_error_if_none_is_left() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--num-train-epochs 1")).stdout();
    let parameters = tiny.path("out/checkpoint-2/parameters.safetensors");
    let mut bytes = fs::read(&parameters).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&parameters, bytes).unwrap();
    let message = run(&mut resume(&tiny.path("out"))).refusal(1);
    assert_says(
        &message,
        &["no usable checkpoint", "parameters.safetensors", "checksum", "--overwrite-output-dir"],
    );
}

#[test]
fn a_checkpoint_without_saved_options_is_refused() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--num-train-epochs 1")).stdout();
    fs::remove_file(tiny.path("out/checkpoint-2/options.json")).unwrap();
    let message = run(&mut resume(&tiny.path("out"))).refusal(1);
    assert_says(&message, &["checkpoint-2: it has no options.json", "checkpoint-2/adapter begins a new run"]);
}

#[test]
fn the_number_of_threads_may_come_from_the_environment() {
    let tiny = Tiny::new();
    let threads = |flag: &[&str], variable: Option<&str>| {
        let mut command = example("pokemon_finetune");
        command.args([
            "--split",
            "0.6,0.2,0.2",
            "--max-steps",
            "1",
            "--eval-strategy",
            "no",
            "--overwrite-output-dir",
        ]);
        command.arg("--model").arg(&tiny.checkpoint).arg("--dataset").arg(&tiny.dataset);
        command.arg("--output-dir").arg(tiny.path("out")).args(flag);
        if let Some(value) = variable {
            command.env("RAYON_NUM_THREADS", value);
        }
        run(&mut command)
    };
    assert_says(&threads(&[], Some("3")).stdout(), &["cpu, f32, 3 threads"]);
    assert_says(&threads(&["--threads", "2"], Some("3")).stdout(), &["cpu, f32, 2 threads"]);
    assert_says(&threads(&[], Some("many")).refusal(1), &["RAYON_NUM_THREADS is `many`", "--threads"]);
}
