//! Both examples with hub ids, against a hub on the loopback that serves a model and a dataset in its layout.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use caption_data::CaptionSource;
use common::hub_server::{HubServer, Revision};
use common::programs::{example, json, json_lines, resume, run, steps};
use common::tiny::{ROWS, SPLIT, Tiny, drawings, png};

const MODEL: &str = "microsoft/git-base";
const DATASET: &str = "reach-vb/pokemon-blip-captions";
const TOKEN: &str = "hf_for_this_test";

/// A hub with the tiny checkpoint, for which a token is required, and with the dataset in the layout of the
/// real one.
fn hub(tiny: &Tiny) -> HubServer {
    let server = HubServer::start();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in fs::read_dir(&tiny.checkpoint).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    }
    files.insert("README.md".into(), b"# not needed".to_vec());
    files.insert("pytorch_model.bin".into(), vec![0; 1000]);
    server.put("models", MODEL, "main", Revision { files, private: Some(TOKEN.into()), gated: false });
    let parquet = fs::read(&tiny.dataset).unwrap();
    let name = "data/train-00000-of-00001-566cc9b19d7203f8.parquet";
    server.add("datasets", DATASET, "main", &[("README.md", b"---\n"), (name, &parquet)]);
    server
}

fn finetune(tiny: &Tiny, output: &str) -> Command {
    let mut command = example("pokemon_finetune");
    command.env("HF_HOME", tiny.path("hf")).args(["--model", MODEL, "--dataset", DATASET]);
    command
        .args(["--split", SPLIT, "--threads", "1", "--max-steps", "2", "--output-dir"])
        .arg(tiny.path(output));
    command
}

fn caption(tiny: &Tiny) -> Command {
    let mut command = example("caption");
    command.env("HF_HOME", tiny.path("hf")).args(["--model", MODEL, "--dataset", DATASET]);
    command.args(["--threads", "1", "--rows", "0,19", "--json"]);
    command
}

#[test]
fn the_model_and_the_dataset_of_the_recipe_come_from_the_hub_and_then_from_its_cache() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let endpoint = server.endpoint();

    let mut online = finetune(&tiny, "online");
    let stdout = run(online.env("HF_ENDPOINT", &endpoint).env("HF_TOKEN", TOKEN)).stdout();
    assert!(stdout.contains(MODEL) && stdout.contains("12 train, 4 validation, 4 test"), "{stdout}");
    let [model, data] =
        [("models", MODEL), ("datasets", DATASET)].map(|(kind, name)| server.commit_of(kind, name, "main"));
    let requests = server.take_requests();
    let downloads = requests.iter().filter(|request| request.path.contains("/resolve/")).count();
    assert!(downloads > 0);
    let named = |name: &str| requests.iter().any(|request| request.path.contains(name));
    assert!(named(&format!("/microsoft/git-base/resolve/{model}/model.safetensors")), "{requests:?}");
    assert!(named(&format!("/datasets/reach-vb/pokemon-blip-captions/resolve/{data}/data")), "{requests:?}");
    assert!(!named("README.md") && !named("pytorch_model.bin"), "{requests:?}");
    // The adapter's configuration has the model's name as Python's PEFT expects it.
    let config = json(&tiny.path("online/adapter/adapter_config.json"));
    assert_eq!(config["base_model_name_or_path"], MODEL);
    // The commits of the branches are recorded.
    assert_eq!(config["revision"], model);
    assert!(stdout.contains(&format!("{MODEL}, commit {model}")), "{stdout}");
    assert!(stdout.contains(&format!("{DATASET}, commit {data}")), "{stdout}");

    let mut online_captions = caption(&tiny);
    online_captions.env("HF_ENDPOINT", &endpoint).env("HF_TOKEN", TOKEN);
    let said = texts(&run(&mut online_captions).stdout());

    // The same without a network: the hub is stopped and the token removed.
    drop(server);
    let mut offline = finetune(&tiny, "offline");
    run(offline.env("HF_ENDPOINT", &endpoint).env("HF_HUB_OFFLINE", "1")).stdout();
    assert_eq!(steps(&tiny.path("offline")), steps(&tiny.path("online")));
    let mut offline_captions = caption(&tiny);
    offline_captions.env("HF_ENDPOINT", &endpoint).env("HF_HUB_OFFLINE", "1");
    assert_eq!(texts(&run(&mut offline_captions).stdout()), said);

    // Without the offline flag, the message mentions it.
    let mut unreachable = finetune(&tiny, "unreachable");
    let message = run(unreachable.env("HF_ENDPOINT", &endpoint)).refusal(1);
    assert!(message.contains(&endpoint) && message.contains("HF_HUB_OFFLINE=1"), "{message}");
}

/// Row and text of each line.
fn texts(lines: &str) -> Vec<(u64, String)> {
    let line =
        |line: serde_json::Value| (line["row"].as_u64().unwrap(), line["text"].as_str().unwrap().to_owned());
    json_lines(lines).into_iter().map(line).collect()
}

#[test]
fn the_files_that_the_hub_sent_are_the_local_ones() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let mut from_hub = finetune(&tiny, "hub");
    run(from_hub.env("HF_ENDPOINT", server.endpoint()).env("HF_TOKEN", TOKEN)).stdout();
    run(&mut tiny.finetune("local", "--max-steps 2")).stdout();
    assert_eq!(steps(&tiny.path("hub")), steps(&tiny.path("local")));
    let captions = json_lines(&fs::read_to_string(tiny.path("hub/captions.jsonl")).unwrap());
    for line in captions {
        let row = line["row"].as_u64().unwrap() as usize;
        assert_eq!(line["reference"], drawings().caption(row).unwrap());
    }
}

#[test]
fn an_adapter_comes_from_the_hub_as_well() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 3 --learning-rate 0.05")).stdout();
    let server = HubServer::start();
    server.add_folder("models", "me/pokemon-lora", &tiny.path("out/adapter"));
    let said = |adapter: &str| {
        let mut command = tiny.caption("--json --rows 0,1,2,3 --adapter");
        command.arg(adapter).arg("--dataset").arg(&tiny.dataset);
        command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        texts(&run(&mut command).stdout())
    };
    assert_eq!(said("me/pokemon-lora"), said(tiny.path("out/adapter").to_str().unwrap()));
}

#[test]
fn a_revision_pins_the_model_the_dataset_and_the_adapter() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let tagged = |kind: &str, name: &str| {
        let mut revision = server.get(kind, name, "main");
        revision.private = None;
        revision.files.insert("NOTES.md".into(), b"of the tag".to_vec());
        server.put(kind, name, "v1.0", revision);
        server.commit_of(kind, name, "v1.0")
    };
    let (model, data) = (tagged("models", MODEL), tagged("datasets", DATASET));
    let mut pinned = example("pokemon_finetune");
    pinned.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
    pinned.args(["--model", "microsoft/git-base@v1.0", "--dataset"]).arg(format!("{DATASET}@{data}"));
    pinned
        .args(["--split", SPLIT, "--threads", "1", "--max-steps", "2", "--output-dir"])
        .arg(tiny.path("out"));
    let stdout = run(&mut pinned).stdout();
    assert!(stdout.contains(&format!("{MODEL}@v1.0, commit {model}")), "{stdout}");
    assert!(stdout.contains(&format!("{DATASET}@{data}, commit {data}")), "{stdout}");
    // PEFT finds the model by its name alone and the commit beside it.
    let config = json(&tiny.path("out/adapter/adapter_config.json"));
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&MODEL.into(), &model.clone().into())
    );

    server.add_folder("models", "me/lora", &tiny.path("out/adapter"));
    let adapter = server.get("models", "me/lora", "main");
    server.put("models", "me/lora", "best", adapter);
    server.add("models", "me/lora", "main", &[("README.md", b"the adapter is in another branch")]);
    let caption = |adapter: &str| {
        let mut command = tiny.caption("--json --rows 0 --adapter");
        command.arg(adapter).arg("--dataset").arg(&tiny.dataset);
        command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        run(&mut command)
    };
    assert_eq!(texts(&caption("me/lora@best").stdout()).len(), 1);
    let message = caption("me/lora").refusal(1);
    assert!(message.contains("adapter me/lora lacks"), "{message}");
}

#[test]
fn a_run_is_resumed_at_its_commits_after_the_branches_moved() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    run(finetune(&tiny, "out").env("HF_ENDPOINT", server.endpoint()).env("HF_TOKEN", TOKEN)).stdout();
    // Other content in `main`; the commits of the run are still there.
    let moved = |kind: &str, name: &str, file: &str| {
        let old = server.get(kind, name, "main");
        let commit = server.commit_of(kind, name, "main");
        server.put(kind, name, "old", old.clone());
        let mut new = old;
        new.files.insert(file.to_owned(), b"{}".to_vec());
        server.put(kind, name, "main", new);
        assert_ne!(server.commit_of(kind, name, "main"), commit);
        commit
    };
    let model = moved("models", MODEL, "config.json");
    let data = moved("datasets", DATASET, "data/train-00000-of-00001-566cc9b19d7203f8.parquet");
    let resumed = |flags: &[&str]| {
        let mut command = resume(&tiny.path("out"));
        command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        run(command.env("HF_TOKEN", TOKEN).args(["--max-steps", "3"]).args(flags))
    };
    // A model that is given anew is the one of `main`, which is broken.
    resumed(&["--model", MODEL]).refusal(1);
    let stdout = resumed(&[]).stdout();
    for (name, commit) in [(MODEL, model), (DATASET, data)] {
        assert!(stdout.contains(&format!("{name}@{commit}, commit {commit}")), "{stdout}");
    }
    assert_eq!(steps(&tiny.path("out")).len(), 3);
}

#[test]
fn the_setup_lists_files_of_the_hub_that_are_left_out() {
    let tiny = Tiny::new();
    let server = HubServer::start();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for row in 0..ROWS {
        let folder = if row < 2 { "test tubes" } else { "cups" };
        files.insert(format!("{folder}/{row:02}.png"), png(row));
        files.insert(format!("{folder}/{row:02}.txt"), drawings().caption(row).unwrap().into_bytes());
    }
    server.put("datasets", "me/tubes", "main", Revision { files, ..Revision::default() });
    let mut command = example("pokemon_finetune");
    command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
    command.arg("--model").arg(&tiny.checkpoint).args(["--dataset", "me/tubes", "--split", SPLIT]);
    command.args(["--threads", "1", "--max-steps", "1", "--output-dir"]).arg(tiny.path("out"));
    let stdout = run(&mut command).stdout();
    let line = "2: in a held-out split, because the name `test tubes` has the word \"test\" (test tubes/00.png, \
                test tubes/01.png)";
    assert!(stdout.contains(line), "{stdout}");
}

#[test]
fn empty_folders_that_hide_hub_ids_and_missing_paths_are_reported() {
    let tiny = Tiny::new();
    let refused = |model: &str, code: i32| {
        let mut command = example("caption");
        command.args(["--threads", "1", "--rows", "0", "--dataset", "embedded", "--model", model]);
        command.current_dir(tiny.path("")).env("HF_HOME", tiny.path("hf"));
        run(command.env("HF_HUB_OFFLINE", "1")).refusal(code)
    };
    fs::create_dir_all(tiny.path("microsoft/git-base")).unwrap();
    let message = refused("microsoft/git-base", 2);
    assert!(message.contains("`microsoft/git-base` is an empty folder"), "{message}");
    fs::write(tiny.path("microsoft/git-base/.gitattributes"), "").unwrap();
    let message = refused("microsoft/git-base", 1);
    assert!(
        message.contains("no microsoft/git-base/config.json")
            && message.contains("the hub's `microsoft/git-base`"),
        "{message}"
    );

    let message = refused("checkpoints/git-bass", 1);
    let here = tiny.path("").canonicalize().unwrap();
    let place = format!("no such file or folder in {}", here.display());
    assert!(message.contains(&place) && message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn a_private_model_without_a_token_says_what_to_set() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let message = run(finetune(&tiny, "out").env("HF_ENDPOINT", server.endpoint())).refusal(1);
    assert!(message.contains(MODEL) && message.contains("HF_TOKEN"), "{message}");
}
