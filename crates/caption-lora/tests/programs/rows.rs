//! Which rows of a dataset a run trains and tests on, and how it reports the others: the main example as a
//! program.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::programs::{Ended, example, json, json_lines, run, steps};
use crate::common::tiny::{SPLIT, Tiny, png, write_columns};
use serde_json::Value;

/// A run on the given dataset instead of the tiny one.
fn finetune(tiny: &Tiny, dataset: &Path, output: &str, flags: &[&str]) -> Ended {
    let mut command = example("pokemon_finetune");
    command.args(["--threads", "1", "--model"]).arg(&tiny.checkpoint);
    command.arg("--dataset").arg(dataset).arg("--output-dir").arg(tiny.path(output));
    run(command.args(flags))
}

fn two_steps(tiny: &Tiny, dataset: &Path, output: &str, flags: &[&str]) -> String {
    finetune(tiny, dataset, output, &[&["--split", SPLIT, "--max-steps", "2"], flags].concat()).stdout()
}

/// A folder of drawings with metadata.
fn folder(tiny: &Tiny, name: &str, metadata: (&str, String), pictures: usize) -> PathBuf {
    let folder = tiny.path(name);
    fs::create_dir(&folder).unwrap();
    (0..pictures).for_each(|row| fs::write(folder.join(format!("{row}.png")), png(row)).unwrap());
    fs::write(folder.join(metadata.0), metadata.1).unwrap();
    folder
}

/// Metadata with a value per row under `text`.
fn jsonl(rows: usize, text: impl Fn(usize) -> Value) -> (&'static str, String) {
    let line = |row| serde_json::json!({ "file_name": format!("{row}.png"), "text": text(row) });
    ("metadata.jsonl", (0..rows).map(|row| format!("{}\n", line(row))).collect())
}

/// The value of a line of the set-up.
fn line<'a>(stdout: &'a str, name: &str) -> &'a str {
    let line = stdout.lines().map(str::trim_start).find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {stdout}")).trim()
}

fn lines(tiny: &Tiny, file: &str) -> Vec<Value> {
    json_lines(&fs::read_to_string(tiny.path(file)).unwrap())
}

#[test]
fn several_captions_of_a_picture_are_references_of_one_row() {
    let tiny = Tiny::new();
    let both = |row: usize| serde_json::json!([format!("a red cat number {row}"), "a cat"]);
    let dataset = folder(&tiny, "art", jsonl(10, both), 10);
    let stdout = two_steps(&tiny, &dataset, "out", &[]);
    assert_eq!(line(&stdout, "split"), "6 train, 2 validation, 2 test");
    assert!(line(&stdout, "captions").starts_with("20 of 10 rows"), "{stdout}");
    for line in lines(&tiny, "out/captions.jsonl") {
        let row = line["row"].as_u64().unwrap();
        assert_eq!(line["reference"], format!("a red cat number {row}"));
        assert_eq!(line["references"], both(row as usize));
    }
    let metrics = json(&tiny.path("out/metrics.json"));
    assert!(metrics["signatures"]["sacrebleu"].as_str().unwrap().starts_with("nrefs:2|"), "{metrics}");
}

#[test]
fn duplicate_captions_change_no_numbers() {
    let tiny = Tiny::new();
    let text = |row: usize| format!("a red cat {row}");
    let once = folder(&tiny, "once", jsonl(10, |row| text(row).into()), 10);
    let twice = folder(&tiny, "twice", jsonl(10, |row| vec![text(row); 2].into()), 10);
    two_steps(&tiny, &once, "a", &[]);
    two_steps(&tiny, &twice, "b", &[]);
    let losses = |out: &str| -> Vec<f64> {
        steps(&tiny.path(out)).iter().map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    assert_eq!(losses("a"), losses("b"));
    let loss = |out: &str| json(&tiny.path(out))["adapter"]["test_loss"].as_f64().unwrap();
    let [a, b] = ["a/metrics.json", "b/metrics.json"].map(loss);
    assert!((a - b).abs() < 1e-6 * a, "{a} {b}");
}

#[test]
fn a_resumed_run_draws_the_captions_of_an_uninterrupted_one() {
    let tiny = Tiny::new();
    let texts = ["a red cat", "a blue dog on a hill", "a bird"];
    let dataset = folder(&tiny, "art", jsonl(10, |_| texts.to_vec().into()), 10);
    let flags = ["--split", SPLIT, "--num-train-epochs", "6", "--save-strategy", "epoch"];
    finetune(&tiny, &dataset, "out", &flags).stdout();
    let whole = steps(&tiny.path("out"));
    let losses: Vec<_> = whole.iter().map(|step| step["loss"].to_string()).collect();
    let mut different = losses.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > losses.len() / 2, "{losses:?}");

    let checkpoint = tiny.path("out/checkpoint-2");
    finetune(&tiny, &dataset, "out", &[&flags[..], &["--resume", checkpoint.to_str().unwrap()]].concat())
        .stdout();
    assert_eq!(steps(&tiny.path("out")), whole);
}

#[test]
fn test_pictures_in_the_training_split_are_reported_and_can_be_separated() {
    let tiny = Tiny::new();
    // Four rows per picture, similar to COCO, which has five.
    let path = tiny.path("rows.parquet");
    let captions = (0..24).map(|row| format!("a red cat {row}").into_bytes()).collect();
    write_columns(&path, (0..24).map(|row| png(row / 4)).collect(), captions);

    let stdout = two_steps(&tiny, &path, "rows", &[]);
    assert_eq!(line(&stdout, "split"), "14 train, 5 validation, 5 test");
    // The same split of these rows as train_test_split of `datasets`.
    let note = line(&stdout, "note");
    assert!(note.starts_with("2 of 5 test rows and 4 of 5 validation rows have a picture"), "{note}");
    assert!(note.contains("--split-by picture"), "{note}");

    let stdout = two_steps(&tiny, &path, "pictures", &["--split-by", "picture"]);
    assert_eq!(line(&stdout, "split"), "3 train, 1 validation, 2 test");
    assert!(!stdout.contains("have a picture that is trained on"), "{stdout}");
    let lines = lines(&tiny, "pictures/captions.jsonl");
    assert_eq!(lines[0]["references"].as_array().unwrap().len(), 4, "{lines:?}");
}

#[test]
fn broken_rows_are_all_named_before_training_or_skipped_and_listed() {
    let tiny = Tiny::new();
    let path = tiny.path("broken.parquet");
    let mut pictures: Vec<Vec<u8>> = (0..40).map(|row| png(row % 20)).collect();
    let mut captions: Vec<Vec<u8>> = (0..40).map(|row| format!("a cat {row}").into_bytes()).collect();
    (0..30).for_each(|row| pictures[row].truncate(100));
    captions[31] = b" ".to_vec();
    write_columns(&path, pictures, captions);

    let message = finetune(&tiny, &path, "out", &["--max-steps", "1"]).refusal(1);
    assert!(message.contains("31 of 40 rows cannot be used"), "{message}");
    assert!(message.contains("row 0 of") && message.contains("row 19 of"), "{message}");
    assert!(!message.contains("row 20 of") && message.contains("and 11 more"), "{message}");
    assert!(message.contains("--on-bad-row skip"), "{message}");

    let stdout = two_steps(&tiny, &path, "out", &["--on-bad-row", "skip"]);
    assert_eq!(line(&stdout, "left out"), "31: rows that cannot be used, listed in skipped_rows.jsonl");
    assert_eq!(line(&stdout, "split"), "5 train, 2 validation, 2 test");
    let skipped = lines(&tiny, "out/skipped_rows.jsonl");
    assert_eq!((skipped.len(), &skipped[30]["row"]), (31, &31.into()));
    assert!(skipped[30]["reason"].as_str().unwrap().contains("blank"), "{skipped:?}");
}

#[test]
fn everything_can_be_trained_on() {
    let tiny = Tiny::new();
    let flags = ["--split", "1,0,0", "--eval-strategy", "no", "--num-train-epochs", "1"];
    let stdout = finetune(&tiny, &tiny.dataset, "out", &flags).stdout();
    assert_eq!(line(&stdout, "split"), "20 train, 0 validation, 0 test");
    assert!(stdout.contains("--split leaves no rows for the test"), "{stdout}");
    for file in ["metrics.json", "report.html", "loss.svg", "adapter/adapter_model.safetensors"] {
        assert!(tiny.path("out").join(file).exists(), "{file}");
    }
    assert!(!tiny.path("out/captions.jsonl").exists());

    let one = folder(&tiny, "one", jsonl(1, |_| "a red cat".into()), 1);
    finetune(&tiny, &one, "one_out", &flags).stdout();
    let message = finetune(&tiny, &one, "refused", &["--max-steps", "1"]).refusal(1);
    assert!(message.contains("cannot split 1 rows: each of the 3 parts"), "{message}");
}

#[test]
fn two_columns_that_could_be_the_captions_are_named_with_the_flag() {
    let tiny = Tiny::new();
    let table = "file_name,caption,description\n0.png,a cat,a dog\n1.png,a cat,a dog\n2.png,a cat,a dog\n";
    let dataset = folder(&tiny, "art", ("metadata.csv", table.into()), 3);
    let message = finetune(&tiny, &dataset, "out", &["--max-steps", "1"]).refusal(1);
    assert!(
        message.contains("captions: caption, description") && message.contains("--caption-column"),
        "{message}"
    );
    two_steps(&tiny, &dataset, "out", &["--caption-column", "description"]);
    assert_eq!(lines(&tiny, "out/captions.jsonl")[0]["reference"], "a dog");
}

#[test]
fn unused_files_are_reported_with_reasons() {
    let tiny = Tiny::new();
    let text = |row: usize| match row {
        3 => "日本語 🔥🔥".into(),
        5 => "a red cat ".repeat(40).into(),
        _ => Value::from("a red cat"),
    };
    let dataset = folder(&tiny, "art", jsonl(12, text), 12);
    fs::create_dir(dataset.join("test tubes")).unwrap();
    fs::write(dataset.join("test tubes/1.png"), png(0)).unwrap();
    let stdout = two_steps(&tiny, &dataset, "out", &["--subset", "10"]);
    for (label, words) in [
        ("left out", "`test tubes` has the word \"test\""),
        ("left out", "2: rows beyond the first 10 (--subset)"),
        // These rows are trained on.
        ("note", "1 of 10: captions cut to 64 tokens"),
        ("note", "1 of 10: captions without a word that the model's vocabulary has"),
    ] {
        let is_told = |line: &str| line.trim_start().starts_with(label) && line.contains(words);
        assert!(stdout.lines().any(is_told), "no {label} `{words}` in {stdout}");
    }
}

#[test]
fn captions_of_files_that_are_no_pictures_are_left_out() {
    let tiny = Tiny::new();
    let dataset = folder(&tiny, "art", ("doc.txt", "a red cat".into()), 10);
    (0..10).for_each(|row| fs::write(dataset.join(format!("{row}.txt")), "a red cat").unwrap());
    fs::write(dataset.join("doc.pdf"), "no picture").unwrap();
    fs::create_dir_all(dataset.join("@eaDir/0.png")).unwrap();
    fs::write(dataset.join("@eaDir/0.png/thumbnail.png"), png(0)).unwrap();
    for policy in ["stop", "skip"] {
        let stdout = two_steps(&tiny, &dataset, policy, &["--on-bad-row", policy]);
        assert_eq!(line(&stdout, "split"), "6 train, 2 validation, 2 test");
        let reported = "1: captions of files whose names are not those of pictures (doc.txt beside doc.pdf)";
        assert_eq!(line(&stdout, "left out"), reported);
    }
}

#[test]
fn captions_without_any_known_word_are_refused_before_training() {
    let tiny = Tiny::new();
    let dataset = folder(&tiny, "art", jsonl(10, |_| "日本語 🔥🔥".into()), 10);
    let message = finetune(&tiny, &dataset, "out", &["--max-steps", "1"]).refusal(1);
    assert!(message.contains("knows no word of the 10 captions"), "{message}");
    assert!(message.contains("--model") && message.contains("--caption-column"), "{message}");
}

#[test]
fn answers_to_questions_are_learnt_and_batches_equal_single_questions() {
    let tiny = Tiny::new();
    let questions = ["a cat?", "a red dog on the grass?", "cat"];
    let row = |row: usize| format!("{row}.png,{},a red cat {row}\n", questions[row % 3]);
    let table = format!("file_name,question,answer\n{}", (0..10).map(row).collect::<String>());
    let dataset = folder(&tiny, "vqa", ("metadata.csv", table), 10);
    let columns = ["--prompt-column", "question", "--caption-column", "answer"];
    let stdout = two_steps(&tiny, &dataset, "out", &columns);
    assert_eq!(line(&stdout, "prompts"), "column `question`");
    for line in lines(&tiny, "out/captions.jsonl") {
        let row = line["row"].as_u64().unwrap() as usize;
        assert_eq!(line["prompt"], questions[row % 3]);
        assert_eq!(line["reference"], format!("a red cat {row}"));
        assert!(!line["adapter"].as_str().unwrap().contains('?'), "{line}");
    }

    let said = |batch_size: &str| {
        let flags = format!("--json --prompt-column question --batch-size {batch_size} --dataset");
        let mut lines = json_lines(&run(tiny.caption(&flags).arg(&dataset)).stdout());
        lines.iter_mut().for_each(|line| line["seconds"] = 0.into());
        lines
    };
    let single = said("1");
    assert_eq!(single, said("8"));
    for (row, line) in single.iter().enumerate() {
        assert_eq!((&line["row"], &line["prompt"]), (&row.into(), &questions[row % 3].into()));
        let flags = ["--json", "--prompt", questions[row % 3]];
        let alone = run(tiny.caption("").args(flags).arg(dataset.join(format!("{row}.png")))).stdout();
        assert_eq!(json_lines(&alone)[0]["ids"], line["ids"]);
    }
}
