//! Models and datasets of the hub: their branches move while a run is stopped, and they may be larger than the disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::hub_server::{HubServer, Ways};
use crate::common::programs::{example, resume, run, steps};
use crate::common::tiny::{SPLIT, Tiny, png, write_columns};

const MODEL: &str = "microsoft/git-base";
const DATASET: &str = "someone/drawings";
const DATA: &str = "data/train-00000-of-00001.parquet";

fn hub(tiny: &Tiny) -> HubServer {
    let server = HubServer::start();
    server.add_folder("models", MODEL, &tiny.checkpoint);
    server.add("datasets", DATASET, "main", &[(DATA, &fs::read(&tiny.dataset).unwrap())]);
    server
}

fn finetune(tiny: &Tiny, output: &str, model: &str, flags: &str) -> Command {
    let mut command = example("pokemon_finetune");
    command.args(["--model", model, "--dataset", DATASET, "--split", SPLIT, "--threads", "1"]);
    command.args(flags.split_whitespace()).arg("--output-dir").arg(tiny.path(output));
    command
}

/// Changes a file of the `main` branch. The old commit is still there. Returns it.
fn move_main(server: &HubServer, kind: &str, name: &str, file: &str, from: &str, to: &str) -> String {
    let commit = server.commit_of(kind, name, "main");
    let mut content = server.get(kind, name, "main");
    server.put(kind, name, "old", content.clone());
    let bytes = content.files.get_mut(file).unwrap();
    let text = String::from_utf8_lossy(bytes).replacen(from, to, 1);
    assert_ne!(text.as_bytes(), bytes.as_slice());
    *bytes = text.into_bytes();
    server.put(kind, name, "main", content);
    commit
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

#[test]
fn full_fine_tuning_is_resumed_at_its_commits_and_a_refusal_names_them() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let on_hub = |command: &mut Command| {
        run(command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint()))
    };
    // A branch that is named moves as the default one does.
    for (name, model) in [("out", MODEL.to_owned()), ("named", format!("{MODEL}@main"))] {
        let flags = "--tune full --max-steps 2 --learning-rate 0.001";
        on_hub(&mut finetune(&tiny, name, &model, flags)).stdout();
    }

    let [from, to] = ["\"do_normalize\":true", "\"do_normalize\":false"];
    let model = move_main(&server, "models", MODEL, "preprocessor_config.json", from, to);
    let data = move_main(&server, "datasets", DATASET, DATA, "PAR1", "gone");

    let resumed =
        |name: &str, flags: &[&str]| on_hub(resume(&tiny.path(name)).args(["--max-steps", "3"]).args(flags));
    let message = resumed("out", &["--model", MODEL]).refusal(1);
    let pinned = format!("the run began with --model {MODEL}@{model}");
    assert_says(&message, &["cannot resume from", "the image processor of --model", &pinned]);
    // The new dataset cannot even be opened.
    let message = resumed("out", &["--dataset", DATASET]).refusal(1);
    assert_says(&message, &[&format!("the run began with --dataset {DATASET}@{data}")]);
    for name in ["out", "named"] {
        let stdout = resumed(name, &[]).stdout();
        for (id, commit) in [(MODEL, &model), (DATASET, &data)] {
            assert_says(&stdout, &[&format!("{id}@{commit}, commit {commit}")]);
        }
        assert_eq!(steps(&tiny.path(name)).len(), 3);
    }
    assert_eq!(steps(&tiny.path("out")), steps(&tiny.path("named")));
    // The commit can be given, as the refusal says.
    on_hub(resume(&tiny.path("out")).arg("--model").arg(format!("{MODEL}@{model}"))).stdout();
}

#[test]
fn runs_that_a_resumed_sweep_begins_have_the_commits_of_the_others() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let on_hub = |command: &mut Command| {
        run(command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint()))
    };
    on_hub(&mut finetune(&tiny, "sweep", MODEL, "--max-steps 1 --sweep r=2,4")).stdout();
    let second = tiny.path("sweep/r-4");
    let before = fs::read(second.join("metrics.json")).unwrap();
    fs::remove_dir_all(&second).unwrap();
    let model = move_main(&server, "models", MODEL, "config.json", "{", "[");
    let data = move_main(&server, "datasets", DATASET, DATA, "PAR1", "gone");
    let stdout = on_hub(&mut resume(&tiny.path("sweep"))).stdout();
    for (id, commit) in [(MODEL, model), (DATASET, data)] {
        assert_says(&stdout, &[&format!("{id}@{commit}, commit {commit}")]);
    }
    assert_eq!(fs::read(second.join("metrics.json")).unwrap(), before);
}

#[test]
fn a_held_out_dataset_stays_at_its_commit() {
    const HELD_OUT: &str = "someone/photos";
    let tiny = Tiny::new();
    let server = hub(&tiny);
    server.add("datasets", HELD_OUT, "main", &[(DATA, &fs::read(&tiny.dataset).unwrap())]);
    let on_hub = |command: &mut Command| {
        run(command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint()))
    };
    let mut command = example("pokemon_finetune");
    command.args(["--model", MODEL, "--dataset", DATASET, "--validation", HELD_OUT, "--threads", "1"]);
    on_hub(command.args(["--max-steps", "2", "--output-dir"]).arg(tiny.path("out"))).stdout();
    let commit = move_main(&server, "datasets", HELD_OUT, DATA, "PAR1", "gone");
    let message =
        on_hub(resume(&tiny.path("out")).args(["--max-steps", "3", "--validation", HELD_OUT])).refusal(1);
    assert_says(&message, &[&format!("the run began with --validation {HELD_OUT}@{commit}")]);
    on_hub(resume(&tiny.path("out")).args(["--max-steps", "3"])).stdout();
    assert_eq!(steps(&tiny.path("out")).len(), 3);
}

#[test]
fn validation_and_test_rows_are_splits_of_the_dataset_at_its_commit() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let rows = fs::read(&tiny.dataset).unwrap();
    let [validation, test] = ["data/validation-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"];
    server.add("datasets", DATASET, "main", &[(DATA, &rows), (validation, &rows), (test, &rows)]);
    let on_hub = |command: &mut Command| {
        run(command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint()))
    };
    let finetune = |output: &str, validation: &str, flags: &[&str]| {
        let mut command = example("pokemon_finetune");
        command.args(["--model", MODEL, "--dataset", DATASET, "--validation", validation, "--threads", "1"]);
        on_hub(command.args(["--max-steps", "2"]).args(flags).arg("--output-dir").arg(tiny.path(output)))
    };
    let of = |split: &str| format!("{DATASET}:{split}");
    let stdout = finetune("out", &of("validation"), &["--test", &of("test")]).stdout();
    assert_says(&stdout, &["20 train, 20 validation, 20 test"]);
    finetune("pieces", &of("validation"), &["--test", &of("test"), "--data-cache", "1MB"]).stdout();
    assert_eq!(steps(&tiny.path("pieces")), steps(&tiny.path("out")));

    let refusal = finetune("no", &of("minival"), &[]).refusal(1);
    assert_says(&refusal, &["--validation", "no split `minival`", "there are test, train, validation"]);

    // The run is resumed at the commit that it began with.
    move_main(&server, "datasets", DATASET, validation, "PAR1", "gone");
    on_hub(resume(&tiny.path("out")).args(["--max-steps", "3"])).stdout();
    assert_eq!(steps(&tiny.path("out")).len(), 3);
}

#[test]
fn tar_files_of_the_hub_are_a_dataset() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let shard = |shard: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        for row in 10 * shard..10 * shard + 10 {
            for (extension, bytes) in [("png", png(row)), ("txt", format!("a cat {row}").into_bytes())] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, format!("{row:06}.{extension}"), bytes.as_slice()).unwrap();
            }
        }
        tar.into_inner().unwrap()
    };
    let (first, second) = (shard(0), shard(1));
    let files: [(&str, &[u8]); 3] =
        [("0000.tar", &first), ("0001.tar", &second), ("README.md", b"Drawings in tar files")];
    server.add("datasets", "someone/shards", "main", &files);
    let finetune = |output: &str| {
        let mut command = example("pokemon_finetune");
        command.args(["--dataset", "someone/shards", "--split", SPLIT, "--threads", "1", "--model"]);
        command.arg(&tiny.checkpoint).args(["--max-steps", "2", "--output-dir"]).arg(tiny.path(output));
        let command = command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        run(command).stdout()
    };
    assert_says(&finetune("out"), &["12 train, 4 validation, 4 test", "someone/shards, commit"]);
    // From the cache, and with the index that is kept.
    finetune("again");
    assert_eq!(steps(&tiny.path("again")), steps(&tiny.path("out")));
}

/// The bytes of all files below a folder that are not links.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let sizes = entries.map(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => size_of(&entry.path()),
        kind if kind.is_file() => entry.metadata().unwrap().len(),
        _ => 0,
    });
    sizes.sum()
}

#[test]
fn a_dataset_larger_than_the_data_cache_trains_as_the_same_files_on_the_disk() {
    const LIMIT: u64 = 1_000_000;
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let folder = tiny.path("data");
    fs::create_dir(&folder).unwrap();
    let names: Vec<String> = (0..5).map(|part| format!("data/train-0000{part}-of-00005.parquet")).collect();
    for (part, name) in names.iter().enumerate() {
        let rows = 4 * part..4 * part + 4;
        // Decoders ignore what follows a picture.
        let long = |row| [png(row), (0..150_000).map(|at| (at * at / 7 + row) as u8).collect()].concat();
        let captions = rows.clone().map(|row| format!("a cat {row}").into_bytes()).collect();
        write_columns(&tiny.path(name), rows.map(long).collect(), captions);
    }
    let files: Vec<Vec<u8>> = names.iter().map(|name| fs::read(tiny.path(name)).unwrap()).collect();
    assert!(files.iter().map(Vec::len).sum::<usize>() as u64 > 2 * LIMIT);
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&files).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    server.add("datasets", "someone/many", "main", &files);

    let flags = ["--num-train-epochs", "2", "--no-feature-cache", "--shuffle-window", "1MB"];
    let finetune = |dataset: &str, output: &str, more: &[&str]| {
        let mut command = example("pokemon_finetune");
        command
            .args(["--dataset", dataset, "--split", SPLIT, "--threads", "1", "--model"])
            .arg(&tiny.checkpoint);
        command.args(flags).args(more).arg("--output-dir").arg(tiny.path(output));
        run(command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint()))
    };
    finetune(folder.to_str().unwrap(), "disk", &[]).stdout();
    // Connections that end too early do not matter.
    server.cut_downloads(3);
    finetune("someone/many", "hub", &["--data-cache", "1MB"]).stdout();
    assert_eq!(steps(&tiny.path("hub")), steps(&tiny.path("disk")));
    let adapter = |run: &str| fs::read(tiny.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("hub") == adapter("disk"));
    let kept = size_of(&tiny.path("hf"));
    assert!((LIMIT / 2..=LIMIT).contains(&kept), "{kept} bytes are kept");

    let refusal = finetune(folder.to_str().unwrap(), "no", &["--data-cache", "1MB"]).refusal(1);
    assert_says(&refusal, &["--data-cache is for datasets of the hub"]);
    server.answer(Ways { ranges: false, ..Ways::default() });
    let refusal = finetune("someone/many", "no", &["--data-cache", "1.5MB"]).refusal(1);
    assert_says(&refusal, &["files as a whole", "--data-cache", "someone/many"]);
}
