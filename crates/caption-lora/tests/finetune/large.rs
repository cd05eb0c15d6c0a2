//! Datasets that do not fit into memory, and validation rows that are named.

use std::fs;
use std::path::{Path, PathBuf};

use caption_data::split_off;

use crate::common::programs::{example, json_lines, resume, run, steps};
use crate::common::tiny::{Tiny, png, write_columns};

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

/// The main example on a dataset, with other flags.
fn finetune(tiny: &Tiny, dataset: &Path, output: &str, flags: &str) -> std::process::Command {
    let mut command = example("pokemon_finetune");
    command.args(["--threads", "1", "--learning-rate", "0.01", "--model"]).arg(&tiny.checkpoint);
    command.arg("--dataset").arg(dataset).arg("--output-dir").arg(tiny.path(output));
    command.args(flags.split_whitespace());
    command
}

/// Twenty rows in five parquet files.
fn parts(tiny: &Tiny) -> PathBuf {
    let folder = tiny.path("parts");
    fs::create_dir(&folder).unwrap();
    for part in 0..5 {
        let rows = 4 * part..4 * part + 4;
        let captions = rows.clone().map(|row| format!("a cat {row}").into_bytes()).collect();
        write_columns(
            &folder.join(format!("train-0000{part}-of-00005.parquet")),
            rows.map(png).collect(),
            captions,
        );
    }
    folder
}

/// The value of a line of the set-up.
fn line<'a>(stdout: &'a str, name: &str) -> &'a str {
    let line = stdout.lines().map(str::trim_start).find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {stdout}")).trim()
}

#[test]
fn a_run_that_shuffles_in_windows_continues_as_if_it_had_not_stopped() {
    let tiny = Tiny::new();
    let dataset = parts(&tiny);
    for cache in ["--no-feature-cache", ""] {
        let names = ["whole", "halves"].map(|name| format!("{name}{}", cache.len()));
        let flags = format!("--num-train-epochs 4 --shuffle-window 3KB --split 0.6,0.2,0.2 {cache}");
        let [whole, halves] = names.each_ref().map(|name| {
            let stdout = run(&mut finetune(&tiny, &dataset, name, &flags)).stdout();
            assert!(line(&stdout, "order").contains("--shuffle-window"), "{stdout}");
            tiny.path(name)
        });
        for step in [6, 8] {
            fs::remove_dir_all(halves.join(format!("checkpoint-{step}"))).unwrap();
        }
        let refused = run(resume(&halves).args(["--shuffle-window", "all"])).refusal(1);
        assert_says(&refused, &["--shuffle-window was 3000 bytes and is now not given"]);
        assert_says(&run(&mut resume(&halves)).stderr, &["resumed after step 4"]);
        assert_eq!(steps(&halves), steps(&whole));
        let adapter = |folder: &Path| fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap();
        assert!(adapter(&halves) == adapter(&whole), "{cache}");
    }
}

#[test]
fn everything_in_one_window_is_the_recipes_order() {
    let tiny = Tiny::new();
    let dataset = parts(&tiny);
    let windows = [("some", "--shuffle-window 1MB"), ("all", "--shuffle-window all"), ("default", "")];
    let steps = windows.map(|(output, flags)| {
        let flags = format!("--num-train-epochs 2 --split 0.6,0.2,0.2 {flags}");
        run(&mut finetune(&tiny, &dataset, output, &flags)).stdout();
        steps(&tiny.path(output))
    });
    assert!(steps[0] == steps[2] && steps[1] == steps[2]);
}

#[test]
fn validation_and_test_rows_are_numbers_or_shares() {
    let tiny = Tiny::new();
    let rows = |output: &str| -> Vec<usize> {
        let captions = fs::read_to_string(tiny.path(output).join("captions.jsonl")).unwrap();
        json_lines(&captions).iter().map(|line| line["row"].as_u64().unwrap() as usize).collect()
    };
    for (output, flags, split) in [
        ("both", "--validation 4 --test 3", "13 train, 4 validation, 3 test"),
        ("alike", "--validation 2", "16 train, 2 validation, 2 test"),
        ("shares", "--validation 0.1 --test 5", "13 train, 2 validation, 5 test"),
    ] {
        let stdout =
            run(&mut finetune(&tiny, &tiny.dataset, output, &format!("--max-steps 1 {flags}"))).stdout();
        assert_eq!(line(&stdout, "split"), split);
    }
    assert_eq!(rows("both"), split_off(20, 4, 3, 42).unwrap().test);
    let refusal = |flags: &str| run(&mut finetune(&tiny, &tiny.dataset, "no", flags)).stderr;
    for (flags, words) in [
        (
            "--validation 4 --split 0.6,0.2,0.2",
            "--split 0.6,0.2,0.2 and --validation both select the held-out rows",
        ),
        ("--test 4", "--test without --validation leaves no rows for validation"),
        (
            "--validation 15 --test 5",
            "15 for validation and 5 for the test would be held out, which leaves none",
        ),
        ("--validation no-such.parquet", "no-such.parquet"),
        ("--validation 1.5", "--validation"),
        ("--on-bad-row skip --check-rows sample", "--on-bad-row skip needs every row to be checked"),
    ] {
        assert_says(&refusal(flags), &[words]);
    }
}

#[test]
fn validation_rows_are_those_of_a_named_dataset() {
    let tiny = Tiny::new();
    let named = tiny.path("val.parquet");
    let captions = || (0..6).map(|row| format!("a dog {row}").into_bytes()).collect();
    write_columns(&named, (0..6).map(png).collect(), captions());
    let flags = format!("--max-steps 2 --validation {} --test 3", named.display());
    let stdout = run(&mut finetune(&tiny, &tiny.dataset, "out", &flags)).stdout();
    assert_eq!(line(&stdout, "split"), "17 train, 6 validation, 3 test");
    // A bad row of the named dataset is that of its own file.
    let broken = (0..6).map(|row| if row == 4 { b"no".to_vec() } else { png(row) }).collect();
    write_columns(&named, broken, captions());
    let message = run(&mut finetune(&tiny, &tiny.dataset, "bad", &flags)).refusal(1);
    assert_says(&message, &["1 of 26 rows cannot be used", "row 4 of", "val.parquet"]);
    let skips = format!("{flags} --on-bad-row skip");
    let stdout = run(&mut finetune(&tiny, &tiny.dataset, "skips", &skips)).stdout();
    assert_eq!(line(&stdout, "split"), "17 train, 5 validation, 3 test");
}

#[test]
fn the_rows_of_a_large_dataset_are_read_when_they_are_needed() {
    const ROWS: usize = 50_001;
    let tiny = Tiny::new();
    let dataset = tiny.path("large.parquet");
    let write = |picture: &dyn Fn(usize) -> Vec<u8>| {
        let captions = (0..ROWS).map(|row| format!("a cat {row}").into_bytes()).collect();
        write_columns(&dataset, (0..ROWS).map(picture).collect(), captions);
    };
    let picture = png(3);
    write(&|_| picture.clone());
    let flags = "--max-steps 2 --validation 4 --no-feature-cache";
    let stdout = run(&mut finetune(&tiny, &dataset, "out", flags)).stdout();
    assert_eq!(line(&stdout, "split"), "49993 train, 4 validation, 4 test");
    assert!(line(&stdout, "checked").starts_with("1024 of 50001 rows"), "{stdout}");
    // Only the rows of the sample have a picture.
    let sample: std::collections::BTreeSet<usize> = (0..1024).map(|at| at * ROWS / 1024).collect();
    write(&|row| if sample.contains(&row) { picture.clone() } else { b"no".to_vec() });
    let message = run(&mut finetune(&tiny, &dataset, "bad", flags)).refusal(1);
    assert_says(&message, &["not a", "large.parquet", "--on-bad-row skip"]);
}

#[test]
fn tar_files_are_a_dataset() {
    let tiny = Tiny::new();
    let folder = tiny.path("shards");
    fs::create_dir(&folder).unwrap();
    for shard in 0..2 {
        let mut tar = tar::Builder::new(fs::File::create(folder.join(format!("{shard:04}.tar"))).unwrap());
        for row in 10 * shard..10 * shard + 10 {
            for (extension, bytes) in [("png", png(row)), ("txt", format!("a cat {row}").into_bytes())] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, format!("{row:06}.{extension}"), bytes.as_slice()).unwrap();
            }
        }
        tar.into_inner().unwrap();
    }
    let pattern = folder.join("{0000..0001}.tar");
    let flags = "--num-train-epochs 2 --split 0.6,0.2,0.2";
    let stdout = run(&mut finetune(&tiny, &pattern, "out", flags)).stdout();
    assert_eq!(line(&stdout, "split"), "12 train, 4 validation, 4 test");
    fs::remove_dir_all(tiny.path("out").join("checkpoint-4")).unwrap();
    assert_says(&run(&mut resume(&tiny.path("out"))).stderr, &["resumed after step 2"]);
}
