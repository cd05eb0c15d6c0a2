//! Both examples with hub ids, against a hub on the loopback that serves a model and a dataset in its layout.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use crate::common::hub_server::{HubServer, Revision};
use crate::common::programs::{example, json, json_lines, resume, run, steps};
use crate::common::tiny::{ROWS, SPLIT, Tiny, drawings, png};
use caption_data::CaptionSource;

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

    // Without the offline flag, a warning says that the hub cannot be reached.
    let mut unreachable = caption(&tiny);
    let ended = run(unreachable.env("HF_ENDPOINT", &endpoint));
    for (name, commit) in [(MODEL, &model), (DATASET, &data)] {
        let used = format!("the copy of {name} in the cache is used, commit {commit}");
        assert!(ended.stderr.contains(&used), "{}", ended.stderr);
    }
    assert!(ended.stderr.contains(&format!("warning: cannot reach {endpoint}")), "{}", ended.stderr);
    assert_eq!(texts(&ended.stdout()), said);
}

#[test]
fn a_proxy_that_does_not_run_is_named_with_its_variable() {
    let tiny = Tiny::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = caption(&tiny);
    command.env("HF_ENDPOINT", "http://hub.example").env_remove("NO_PROXY").env_remove("no_proxy");
    let message = run(command.env("HTTPS_PROXY", format!("http://ada:secret@127.0.0.1:{port}"))).refusal(1);
    let words = format!("through the proxy 127.0.0.1:{port}, which HTTPS_PROXY names");
    assert!(message.contains(&words) && message.contains("correct or unset HTTPS_PROXY"), "{message}");
    assert!(!message.contains("secret") && !message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn a_damaged_file_in_the_cache_is_named_and_downloaded_anew_once_it_is_deleted() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 1")).stdout();
    let server = hub(&tiny);
    server.add_folder("models", "me/lora", &tiny.path("out/adapter"));
    let caption = || {
        let mut command = caption(&tiny);
        command.args(["--adapter", "me/lora"]).env("HF_ENDPOINT", server.endpoint()).env("HF_TOKEN", TOKEN);
        run(&mut command)
    };
    let said = texts(&caption().stdout());
    let snapshot = |kind: &str, name: &str| {
        let folder = format!("hf/hub/{kind}--{}/snapshots", name.replace('/', "--"));
        tiny.path(&folder).join(server.commit_of(kind, name, "main"))
    };
    for path in [
        snapshot("models", MODEL).join("model.safetensors"),
        snapshot("models", MODEL).join("tokenizer.json"),
        snapshot("models", "me/lora").join("adapter_model.safetensors"),
        snapshot("datasets", DATASET).join("data/train-00000-of-00001-566cc9b19d7203f8.parquet"),
    ] {
        let blob = path.canonicalize().unwrap();
        let bytes = fs::read(&blob).unwrap();
        fs::write(&blob, &bytes[..bytes.len() / 2]).unwrap();
        let message = caption().refusal(1);
        let advice = format!("delete {} and run again to download it anew", blob.display());
        assert!(message.contains(&advice), "{message}");
        fs::remove_file(&blob).unwrap();
        assert_eq!(texts(&caption().stdout()), said);
    }
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
fn a_path_that_is_not_there_is_searched_for_on_the_hub_too_and_the_message_names_both() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let mut command = example("caption");
    command.args(["--rows", "0", "--dataset", "embedded", "--model", "checkpoints/gitbase"]);
    command.current_dir(tiny.path("")).env("HF_HOME", tiny.path("hf"));
    for token in ["", TOKEN] {
        let message = run(command.env("HF_ENDPOINT", server.endpoint()).env("HF_TOKEN", token)).refusal(1);
        let here = tiny.path("").canonicalize().unwrap();
        let local = format!("there is no file or folder `checkpoints/gitbase` in {}", here.display());
        assert!(message.contains(&local), "{message}");
        assert!(message.contains("on the hub there is no such repository"), "{message}");
    }
}

/// A hub with the tiny checkpoint of [`hub`] for everybody, and an adapter that was trained on it.
fn hub_with_adapter(tiny: &Tiny) -> HubServer {
    let server = hub(tiny);
    let mut model = server.get("models", MODEL, "main");
    model.private = None;
    server.put("models", MODEL, "main", model);
    run(finetune(tiny, "trained").env("HF_ENDPOINT", server.endpoint())).stdout();
    server.add_folder("models", "me/lora", &tiny.path("trained/adapter"));
    server
}

#[test]
fn an_adapter_given_as_the_model_is_named_with_its_base_and_the_flags() {
    let tiny = Tiny::new();
    let server = hub_with_adapter(&tiny);
    let mut command = example("caption");
    command.args(["--rows", "0", "--dataset", "embedded", "--model", "me/lora"]);
    command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
    let message = run(&mut command).refusal(1);
    let meant = format!(
        "--model me/lora is an adapter and no checkpoint: give --model {MODEL}, and the adapter as --adapter me/lora"
    );
    assert!(message.contains(&meant) && message.contains("--init-adapter me/lora"), "{message}");
}

#[test]
fn commits_are_printed_and_an_adapter_of_another_commit_is_warned_of() {
    let tiny = Tiny::new();
    let server = hub_with_adapter(&tiny);
    let old = server.commit_of("models", MODEL, "main");
    let adapter = server.commit_of("models", "me/lora", "main");
    server.put("models", MODEL, "old", server.get("models", MODEL, "main"));
    let mut moved = server.get("models", MODEL, "main");
    moved.files.insert("NOTES.md".into(), b"newer".to_vec());
    server.put("models", MODEL, "main", moved);
    let new = server.commit_of("models", MODEL, "main");
    let warning = format!(
        "warning: the adapter was trained on commit {old} of {MODEL}, and commit {new} is used, whose weights may \
         differ: --model {MODEL}@{old} is the model that it belongs to"
    );
    let stderr = |program: &str, model: &str, output: &str| {
        let mut command = example(program);
        command.args(["--model", model, "--adapter", "me/lora"]);
        match program {
            "caption" => command.args(["--threads", "1", "--dataset", DATASET, "--rows", "0"]),
            _ => command.arg("--output-dir").arg(tiny.path(output)),
        };
        command.env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stderr
    };
    for program in ["merge_adapter", "caption"] {
        let text = stderr(program, MODEL, "new");
        for line in [format!("model {MODEL}, commit {new}\n"), format!("adapter me/lora, commit {adapter}\n")]
        {
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains(&warning), "{text}");
        let text = stderr(program, &format!("{MODEL}@{old}"), "old");
        assert!(text.contains(&format!("model {MODEL}, commit {old}\n")), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }
}

#[test]
fn a_run_begins_with_an_adapter_of_the_hub_and_is_resumed_without_it() {
    let tiny = Tiny::new();
    let server = hub_with_adapter(&tiny);
    server.put("models", "me/lora", "best", server.get("models", "me/lora", "main"));
    server.add("models", "me/lora", "main", &[("README.md", b"the adapter is in another branch")]);
    let commit = server.commit_of("models", "me/lora", "best");
    let begun = |output: &str, adapter: &str| {
        let mut command = tiny.finetune(output, "--max-steps 2 --learning-rate 0.01 --init-adapter");
        command.arg(adapter).env("HF_HOME", tiny.path("hf")).env("HF_ENDPOINT", server.endpoint());
        run(&mut command)
    };
    let stdout = begun("hub", "me/lora@best").stdout();
    assert!(stdout.contains(&format!("first adapter  me/lora@best, commit {commit}")), "{stdout}");
    begun("local", tiny.path("trained/adapter").to_str().unwrap()).stdout();
    assert_eq!(steps(&tiny.path("hub")), steps(&tiny.path("local")));

    let message = begun("none", "me/none").refusal(1);
    assert!(message.contains("--init-adapter: adapter me/none: "), "{message}");
    assert!(message.contains("there is no file or folder `me/none`"), "{message}");
    let message = begun("none", "nope").refusal(1);
    assert!(message.contains("--init-adapter nope: there is no such folder"), "{message}");

    let endpoint = server.endpoint();
    drop(server);
    let mut resumed = resume(&tiny.path("hub"));
    resumed.env("HF_HOME", tiny.path("empty")).env("HF_ENDPOINT", endpoint).args(["--max-steps", "3"]);
    run(&mut resumed).stdout();
    assert_eq!(steps(&tiny.path("hub")).len(), 3);
}

#[test]
fn a_private_model_without_a_token_says_what_to_set() {
    let tiny = Tiny::new();
    let server = hub(&tiny);
    let message = run(finetune(&tiny, "out").env("HF_ENDPOINT", server.endpoint())).refusal(1);
    assert!(message.contains(MODEL) && message.contains("HF_TOKEN"), "{message}");
}
