//! Resuming with a model and a dataset of the hub, whose branches have moved since the run began.

use std::fs;
use std::process::Command;

use crate::common::hub_server::HubServer;
use crate::common::programs::{example, resume, run, steps};
use crate::common::tiny::{SPLIT, Tiny};

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
