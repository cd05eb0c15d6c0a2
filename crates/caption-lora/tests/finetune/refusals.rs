//! Errors of the main example, whose messages name the file, row or flag.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::common::programs::{Ended, contents, example, json, resume, run, steps};
use crate::common::tiny::{SPLIT, Tiny, png, write_columns};

/// A run on the given dataset instead of the tiny one.
fn on_dataset(tiny: &Tiny, dataset: &Path) -> Ended {
    let mut command = example("pokemon_finetune");
    command.args(["--split", SPLIT, "--max-steps", "1", "--model"]).arg(&tiny.checkpoint);
    command.arg("--dataset").arg(dataset).arg("--output-dir").arg(tiny.path("out"));
    run(&mut command)
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

#[test]
fn flags_that_make_no_sense_end_with_code_2_and_no_folder() {
    let tiny = Tiny::new();
    for (flags, words) in [
        ("--learning-rte 1", ["--learning-rte", "--learning-rate"]),
        ("--lora-dropout 1", ["--lora-dropout", "below 1"]),
        ("--tune full --lora-r 8", ["--lora-r", "--tune full"]),
        ("--resume --overwrite-output-dir", ["--resume", "--overwrite-output-dir"]),
    ] {
        assert_says(&run(&mut tiny.finetune("out", flags)).refusal(2), &words);
    }
    assert!(!tiny.path("out").exists());
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let mut command = example("pokemon_finetune");
    let message = run(command.args(["--model", "./checkpoints/none"])).refusal(2);
    assert_says(&message, &["./checkpoints/none", "--model", "owner/name"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_to_is_found_before_anything_is_downloaded() {
    let tiny = Tiny::new();
    fs::write(tiny.path("file"), "not a folder").unwrap();
    // A hub that accepts no connection: a request to it would fail with another message.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for output in ["file", "file/out"] {
        let mut command = example("pokemon_finetune");
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}")).env("HF_HOME", tiny.path("hf"));
        command.args(["--model", "microsoft/git-base", "--output-dir"]).arg(tiny.path(output));
        let message = run(&mut command).refusal(1);
        assert_says(&message, &["--output-dir", tiny.path(output).to_str().unwrap()]);
    }
    assert!(!tiny.path("hf").exists());
}

#[test]
fn target_modules_that_match_nothing_are_named() {
    let tiny = Tiny::new();
    let message = run(&mut tiny.finetune("out", "--target-modules query,quarry")).refusal(1);
    assert_says(&message, &["quarry", "query"]);
    let message = run(&mut tiny.finetune("out", "--target-modules q_proj")).refusal(1);
    assert_says(&message, &["vision encoder", "--tune text", "use --tune vision"]);
}

#[test]
fn a_part_that_tune_does_not_name_is_not_trained() {
    let tiny = Tiny::new();
    let refused = |flags: &str| run(&mut tiny.finetune("out", flags)).refusal(1);
    let words = ["text decoder", "--tune vision does not train", "use --tune text"];
    assert_says(&refused("--tune vision --target-modules query"), &words);
    let words = ["text decoder", "--tune vision does not train", "use --tune both"];
    assert_says(&refused("--tune vision --target-modules query,q_proj"), &words);
    let words = ["vision encoder", "--tune text does not train", "use --tune both"];
    assert_says(&refused("--target-modules query,q_proj"), &words);

    run(&mut tiny.finetune("text", "--max-steps 1")).stdout();
    let message = run(tiny.finetune("out", "--tune vision --init-adapter").arg(tiny.path("text/adapter")));
    assert_says(&message.refusal(1), &["text decoder", "use --tune text"]);
}

#[test]
fn a_checkpoint_that_is_damaged_says_which_file_and_what() {
    for (file, damage, words) in [
        ("config.json", None, "config.json"),
        ("model.safetensors", None, "model.safetensors"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("preprocessor_config.json", None, "preprocessor_config.json"),
        ("config.json", Some(r#"{"model_type": "blip-2"}"#), "blip-2"),
        ("model.safetensors", Some("cut"), "model.safetensors"),
    ] {
        let tiny = Tiny::new();
        let path = tiny.checkpoint.join(file);
        match damage {
            None => fs::remove_file(&path).unwrap(),
            Some(text) => fs::write(&path, text).unwrap(),
        }
        let message = run(&mut tiny.finetune("out", "--max-steps 1")).refusal(1);
        assert_says(&message, &[words, tiny.checkpoint.to_str().unwrap()]);
    }
}

#[test]
fn a_dataset_that_is_broken_says_which_file_row_or_column() {
    let tiny = Tiny::new();
    let path = tiny.path("broken.parquet");
    let text = |caption: &str| caption.as_bytes().to_vec();
    let captions = || (0..10).map(|row| text(&format!("a cat {row}"))).collect::<Vec<_>>();
    let pictures = || (0..10).map(png).collect::<Vec<_>>();

    fs::write(&path, "PAR1 is how it begins").unwrap();
    assert_says(&on_dataset(&tiny, &path).refusal(1), &["broken.parquet"]);

    let mut broken = pictures();
    broken[7].truncate(100);
    write_columns(&path, broken, captions());
    assert_says(&on_dataset(&tiny, &path).refusal(1), &["broken.parquet", "row 7", "cannot be decoded"]);

    let mut empty = captions();
    empty[3] = text("  ");
    write_columns(&path, pictures(), empty);
    assert_says(&on_dataset(&tiny, &path).refusal(1), &["broken.parquet", "row 3", "blank"]);

    write_columns(&path, vec![], vec![]);
    assert_says(&on_dataset(&tiny, &path).refusal(1), &["broken.parquet", "no"]);

    let folder = tiny.path("pictures");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("0.png"), png(0)).unwrap();
    assert_says(&on_dataset(&tiny, &folder).refusal(1), &["pictures", "metadata.jsonl"]);
    assert!(!tiny.path("out").exists(), "a run that does not begin leaves no folder");
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_step_and_says_where() {
    let tiny = Tiny::new();
    tiny.set_weight("git.encoder.layer.0.attention.self.query.weight", 0, 3e38);
    tiny.set_weight("git.encoder.layer.0.attention.self.key.weight", 0, 3e38);
    let message = run(&mut tiny.finetune("out", "--max-steps 4 --eval-strategy no")).refusal(1);
    let words = ["step 1", "loss of micro-batch 1 of 4 is NaN", "learning rate 0e0", "batch: rows ["];
    assert_says(&message, &words);
    assert_says(
        &message,
        &["nothing was updated", "no checkpoint was saved yet", "--on-nan skip passes over"],
    );
    let message =
        run(&mut tiny
            .finetune("skip", "--max-steps 4 --eval-strategy no --on-nan skip --max-skipped-steps 1"));
    let message = message.refusal(1);
    assert_says(&message, &["the limit of skipped steps (1) is reached", "--max-skipped-steps allows more"]);
    assert!(!message.contains("max_skipped_steps"), "{message}");
    assert!(!tiny.path("out/adapter").exists());
}

#[test]
fn a_run_that_diverges_leaves_its_last_checkpoint_as_it_was() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 2")).stdout();
    let before = contents(&tiny.path("out/checkpoint-2"));

    // Matrices of 1e30 have an infinite product.
    let flags = "--max-steps 8 --learning-rate 1e30 --lr-scheduler-type constant";
    let message = run(resume(&tiny.path("out")).args(flags.split(' '))).refusal(1);
    assert_says(
        &message,
        &["--learning-rate: 5e-5 -> 1e30", "--max-steps: 2 -> 8", "--lr-scheduler-type: linear -> "],
    );
    assert_says(&message, &["step 4", "at learning rate 1e30", "rows [", "nothing was updated"]);
    assert_says(&message, &["last good checkpoint", "checkpoint-2"]);
    assert_eq!(contents(&tiny.path("out/checkpoint-2")), before);
    assert_eq!(steps(&tiny.path("out")).len(), 2, "{}", json(&tiny.path("out/trainer_state.json")));
}
