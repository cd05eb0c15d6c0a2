//! The hub's client against a hub on the loopback.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{fs, net::TcpListener, path::Path, time::Duration};

use common::hub_server::{HubServer, Revision, commit};
use recipes::hub::{DatasetFiles, Error, Hub, HubConfig, Location, RepoId};

const MODEL: &[(&str, &[u8])] = &[
    (".gitattributes", b"*.safetensors filter=lfs"),
    ("README.md", b"# a model"),
    ("config.json", b"{\"model_type\": \"git\"}"),
    ("generation_config.json", b"{}"),
    ("model.safetensors", &[7; 5000]),
    ("preprocessor_config.json", b"{\"size\": 224}"),
    ("pytorch_model.bin", &[8; 5000]),
    ("tokenizer.json", b"{\"model\": {}}"),
    ("tokenizer_config.json", b"{\"do_lower_case\": true}"),
    ("vocab.txt", b"[PAD]\n[UNK]"),
];

fn id(name: &str) -> RepoId {
    match name.parse().unwrap() {
        Location::Hub(id) => id,
        other => panic!("{other} is no hub id"),
    }
}

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.into(),
        cache: cache.into(),
        token: None,
        timeout: Duration::from_secs(60),
        offline: false,
        progress: false,
    }
}

fn hub(server: &HubServer, cache: &Path) -> Hub {
    Hub::new(config(&server.endpoint(), cache)).unwrap()
}

fn offline(cache: &Path) -> Hub {
    Hub::new(HubConfig { offline: true, ..config("http://127.0.0.1:9", cache) }).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_downloaded_once_and_only_what_is_needed_of_it() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "microsoft/git-base", "main", MODEL);
    let hub = hub(&server, cache.path());

    let folder = hub.model_dir(&id("microsoft/git-base")).unwrap();
    let wanted = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&folder), wanted);
    for (name, bytes) in MODEL.iter().filter(|(name, _)| wanted.contains(name)) {
        assert_eq!(fs::read(folder.join(name)).unwrap(), *bytes, "{name}");
    }
    let requests = server.take_requests();
    assert_eq!(requests[0].path, "/api/models/microsoft/git-base/revision/main");
    let asked = |path: &str| requests.iter().any(|request| request.path.starts_with(path));
    assert!(asked("/microsoft/git-base/resolve/main/model.safetensors"));
    assert!(asked("/cdn/models/microsoft/git-base/main/"));
    assert!(asked("/api/resolve-cache/models/microsoft/git-base/main/"));

    assert_eq!(hub.model_dir(&id("microsoft/git-base")).unwrap(), folder);
    assert_eq!(server.take_requests().len(), 1, "a second run asks for the list of files alone");
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let folder = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap();
    let root = cache.path().join("models--a--b");
    assert_eq!(names(&root), ["blobs", "refs", "snapshots"]);
    let commit = fs::read_to_string(root.join("refs/main")).unwrap();
    assert_eq!(folder, root.join("snapshots").join(commit));
}

#[test]
fn a_moved_branch_gets_a_new_snapshot_and_keeps_the_old_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let hub = hub(&server, cache.path());
    server.add("models", "a/b", "main", MODEL);
    let old = hub.model_dir(&id("a/b")).unwrap();
    let mut files = MODEL.to_vec();
    files[2].1 = b"{\"model_type\": \"git\", \"vocab_size\": 9}";
    server.add("models", "a/b", "main", &files);
    let new = hub.model_dir(&id("a/b")).unwrap();
    assert_ne!(old, new);
    assert_eq!(fs::read(new.join("config.json")).unwrap(), files[2].1);
    assert_eq!(fs::read(old.join("config.json")).unwrap(), MODEL[2].1);

    // Back again: everything is there, and the cache must not go on pointing to the newer commit.
    server.add("models", "a/b", "main", MODEL);
    assert_eq!(hub.model_dir(&id("a/b")).unwrap(), old);
    assert_eq!(offline(cache.path()).model_dir(&id("a/b")).unwrap(), old);
}

#[test]
fn sharded_weights_come_with_every_shard_and_a_missing_one_is_named() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", b"{}"),
        ("vocab.txt", b"[PAD]"),
        ("model.safetensors.index.json", b"{\"weight_map\": {}}"),
        ("model-00001-of-00002.safetensors", &[1; 2000]),
        ("model-00002-of-00002.safetensors", &[2; 2000]),
    ];
    server.add("models", "a/sharded", "main", &files);
    let hub = hub(&server, cache.path());
    assert_eq!(names(&hub.model_dir(&id("a/sharded")).unwrap()).len(), 5);
    files.pop();
    server.add("models", "a/torn", "main", &files);
    let message = hub.model_dir(&id("a/torn")).unwrap_err().to_string();
    assert!(message.contains("model a/torn") && message.contains("1 of 2"), "{message}");
}

#[test]
fn a_repository_that_is_no_checkpoint_says_what_it_lacks_and_has() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add(
        "models",
        "a/b",
        "main",
        &[("config.json", b"{}"), ("vocab.txt", b"x"), ("flax_model.msgpack", b"x")],
    );
    let error = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(error, Error::Lacks { .. }));
    let message = error.to_string();
    assert!(message.contains("pytorch_model.bin") && message.contains("flax_model.msgpack"), "{message}");
}

#[test]
fn an_adapter_is_its_config_and_its_weights() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add(
        "models",
        "me/lora",
        "main",
        &[("README.md", b"x"), ("adapter_config.json", b"{}"), ("adapter_model.safetensors", &[1; 99])],
    );
    server.add("models", "me/old", "main", &[("adapter_config.json", b"{}"), ("adapter_model.bin", b"x")]);
    let hub = hub(&server, cache.path());
    assert_eq!(
        names(&hub.adapter_dir(&id("me/lora")).unwrap()),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    let message = hub.adapter_dir(&id("me/old")).unwrap_err().to_string();
    assert!(
        message.starts_with("adapter me/old lacks") && message.contains("adapter_model.bin"),
        "{message}"
    );
}

#[test]
fn a_revision_is_a_branch_or_a_commit() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files = MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
    let branch = Revision { files, ..Revision::default() };
    server.put("models", "a/b", "v2", branch.clone());
    let hub = hub(&server, cache.path());
    let folder = hub.model_dir(&id("a/b@v2")).unwrap();
    assert_eq!(hub.model_dir(&id(&format!("a/b@{}", commit(&branch)))).unwrap(), folder);
    let message = hub.model_dir(&id("a/b@v3")).unwrap_err().to_string();
    assert!(message.contains("404") && message.contains("`a/b@v3`"), "{message}");
}

#[test]
fn a_dataset_is_the_parquet_files_of_its_train_split_in_order() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add(
        "datasets",
        "reach-vb/pokemon-blip-captions",
        "main",
        &[
            ("README.md", b"x"),
            ("data/test-00000-of-00001.parquet", b"PAR1 test"),
            ("data/train-00000-of-00002-566cc9b1.parquet", b"PAR1 first"),
            ("data/train-00001-of-00002-0aa11bb2.parquet", b"PAR1 second"),
        ],
    );
    let DatasetFiles::Parquet(files) =
        hub(&server, cache.path()).dataset_files(&id("reach-vb/pokemon-blip-captions")).unwrap()
    else {
        panic!("these are parquet files");
    };
    let contents: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(contents, ["PAR1 first", "PAR1 second"]);
    assert_eq!(server.take_requests()[0].path, "/api/datasets/reach-vb/pokemon-blip-captions/revision/main");
}

#[test]
fn a_dataset_in_another_format_is_taken_as_the_hub_converted_it() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("datasets", "a/d", "main", &[("train/cat.png", &[1; 50]), ("train/metadata.jsonl", b"{}")]);
    let converted: &[(&str, &[u8])] =
        &[("default/train/0000.parquet", b"PAR1 0"), ("default/train/0001.parquet", b"PAR1 1")];
    server.add("datasets", "a/d", "refs/convert/parquet", converted);
    let online = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap();
    let DatasetFiles::Parquet(files) = &online else { panic!("these are parquet files") };
    assert_eq!(fs::read(&files[1]).unwrap(), b"PAR1 1");
    assert_eq!(offline(cache.path()).dataset_files(&id("a/d")).unwrap(), online);
}

#[test]
fn a_dataset_of_plain_images_becomes_their_folder() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        ("test/x.png", &[9; 50]),
        ("train/0/cat.png", &[1; 50]),
        ("train/dog.png", &[2; 60]),
        ("train/metadata.jsonl", b"{}"),
    ];
    server.add("datasets", "a/folder", "main", files);
    server.add(
        "datasets",
        "a/texts",
        "main",
        &[("1.jpg", &[1; 50]), ("1.txt", b"one"), ("2.jpg", &[2; 50]), ("2.txt", b"two")],
    );
    let hub = hub(&server, cache.path());
    let DatasetFiles::ImageFolder(folder) = hub.dataset_files(&id("a/folder")).unwrap() else {
        panic!("these are images")
    };
    assert_eq!(names(&folder), ["0", "dog.png", "metadata.jsonl"]);
    assert_eq!(fs::read(folder.join("0/cat.png")).unwrap(), [1; 50]);
    let DatasetFiles::ImageFolder(folder) = hub.dataset_files(&id("a/texts")).unwrap() else {
        panic!("these are images")
    };
    assert_eq!(names(&folder), ["1.jpg", "1.txt", "2.jpg", "2.txt"]);
}

#[test]
fn a_dataset_without_captioned_images_or_with_a_choice_to_make_is_refused() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("datasets", "a/csv", "main", &[("data.csv", b"x")]);
    server.add("datasets", "a/two", "main", &[("en/train.parquet", b"PAR1"), ("fr/train.parquet", b"PAR1")]);
    server.add("datasets", "a/held", "main", &[("test.parquet", b"PAR1")]);
    let hub = hub(&server, cache.path());
    for (name, words) in [("a/csv", "data.csv"), ("a/two", "(en, fr)"), ("a/held", "train split")] {
        let message = hub.dataset_files(&id(name)).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(words), "{message}");
    }
}

#[test]
fn a_private_repository_needs_its_token_and_the_message_says_so() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files = MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
    server.put(
        "models",
        "me/secret",
        "main",
        Revision { files, private: Some("hf_right".into()), gated: false },
    );
    let with_token = |token: Option<&str>| {
        let config =
            HubConfig { token: token.map(str::to_owned), ..config(&server.endpoint(), cache.path()) };
        Hub::new(config).unwrap().model_dir(&id("me/secret"))
    };
    let message = with_token(None).unwrap_err().to_string();
    assert!(message.contains("401") && message.contains("set HF_TOKEN"), "{message}");
    let message = with_token(Some("hf_wrong")).unwrap_err().to_string();
    assert!(message.contains("404") && !message.contains("hf_wrong"), "{message}");
    assert!(with_token(Some("hf_right")).unwrap().join("model.safetensors").exists());
}

#[test]
fn a_gated_repository_names_the_page_where_to_ask() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files = MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
    server.put("models", "big/gated", "main", Revision { files, private: None, gated: true });
    let error = hub(&server, cache.path()).model_dir(&id("big/gated")).unwrap_err();
    assert!(matches!(&error, Error::Refused { status: 403, file: Some(file), .. } if file == "config.json"));
    let message = error.to_string();
    assert!(
        message.contains(&format!("{}/big/gated", server.endpoint())) && message.contains("gated"),
        "{message}"
    );
}

#[test]
fn a_misspelt_name_is_said_to_be_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let message = hub(&server, cache.path()).model_dir(&id("microsoft/git-bass")).unwrap_err().to_string();
    assert!(
        message.contains("model microsoft/git-bass") && message.contains("check the spelling"),
        "{message}"
    );
    assert!(message.contains(&server.endpoint()), "{message}");
}

#[test]
fn no_connection_is_told_with_what_can_be_done() {
    let cache = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("http://127.0.0.1:{port}");
    let unreachable = || Hub::new(config(&nobody, cache.path())).unwrap().model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(unreachable(), Error::Unreachable { cached: false, .. }));
    let message = unreachable().to_string();
    assert!(message.contains(&nobody) && message.contains("HF_ENDPOINT"), "{message}");

    let server = HubServer::start();
    server.add("models", "a/b", "main", MODEL);
    hub(&server, cache.path()).model_dir(&id("a/b")).unwrap();
    assert!(unreachable().to_string().contains("HF_HUB_OFFLINE=1"));
}

#[test]
fn a_hub_that_takes_the_connection_and_says_nothing_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", mute.local_addr().unwrap());
    let config = HubConfig { timeout: Duration::from_millis(200), ..config(&endpoint, cache.path()) };
    let error = Hub::new(config).unwrap().model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(error, Error::Stalled { file: None, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&endpoint) && message.contains("HF_HUB_DOWNLOAD_TIMEOUT"), "{message}");
}

#[test]
fn a_download_that_stands_still_in_its_middle_is_given_up() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.stall_downloads(1);
    let config =
        HubConfig { timeout: Duration::from_millis(500), ..config(&server.endpoint(), cache.path()) };
    let error = Hub::new(config).unwrap().model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(&error, Error::Stalled { file: Some(file), .. } if file == "config.json"), "{error}");
}

#[test]
fn offline_a_second_run_needs_no_hub() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.add("datasets", "a/d", "main", &[("data/train-00000-of-00001.parquet", b"PAR1")]);
    let online = hub(&server, cache.path());
    let (model, data) = (online.model_dir(&id("a/b")).unwrap(), online.dataset_files(&id("a/d")).unwrap());
    server.take_requests();
    let offline = offline(cache.path());
    assert_eq!(offline.model_dir(&id("a/b")).unwrap(), model);
    assert_eq!(offline.dataset_files(&id("a/d")).unwrap(), data);
    assert_eq!(server.take_requests(), []);

    let message = offline.model_dir(&id("a/other")).unwrap_err().to_string();
    assert!(
        message.contains("model a/other is not in the cache") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );
}

#[test]
fn offline_a_half_downloaded_dataset_is_not_taken_for_a_whole_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let parts = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
    server.add("datasets", "a/counted", "main", &[(parts[0], b"PAR1 0"), (parts[1], b"PAR1 1")]);
    server.add(
        "datasets",
        "a/plain",
        "main",
        &[("default/train/0000.parquet", b"PAR1 0"), ("default/train/0001.parquet", b"PAR1 1")],
    );
    for name in ["a/counted", "a/plain"] {
        let hub = hub(&server, cache.path());
        let DatasetFiles::Parquet(files) = hub.dataset_files(&id(name)).unwrap() else {
            panic!("these are parquet files")
        };
        // What an interruption leaves: the last part comes first.
        fs::remove_file(&files[0]).unwrap();
        let message = offline(cache.path()).dataset_files(&id(name)).unwrap_err().to_string();
        assert!(message.contains("only 1 of 2") && message.contains("HF_HUB_OFFLINE"), "{message}");
    }
}

#[test]
fn a_cut_or_refused_download_goes_on_where_it_stopped() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let weights: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut files = MODEL.to_vec();
    files[4].1 = &weights;
    server.add("models", "a/b", "main", &files);
    let hub = hub(&server, cache.path());
    // All but the weights, so that the faults meet them alone.
    let folder = hub.model_dir(&id("a/b")).unwrap();
    let weights_file = folder.join("model.safetensors");
    fs::remove_file(fs::canonicalize(&weights_file).unwrap()).unwrap();
    fs::remove_file(&weights_file).unwrap();

    server.take_requests();
    server.cut_downloads(2);
    server.fail_downloads(1);
    hub.model_dir(&id("a/b")).unwrap();
    assert_eq!(fs::read(&weights_file).unwrap(), weights);
    let ranges: Vec<_> =
        server.take_requests().into_iter().filter_map(|r| r.range).filter(|r| r.ends_with('-')).collect();
    assert_eq!(ranges.last().unwrap(), "bytes=75000-");
}

#[test]
fn a_complete_partial_file_of_a_killed_run_does_no_harm() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    let weights = hub.model_dir(&id("a/b")).unwrap().join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    for length in [5000, 6000] {
        fs::remove_file(&weights).unwrap();
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("part"), vec![0; length]).unwrap();
        hub.model_dir(&id("a/b")).unwrap();
        assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);
    }
}

#[test]
fn a_name_that_leads_out_of_the_cache_is_never_followed() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add(
        "datasets",
        "a/d",
        "main",
        &[("../../../train.parquet", b"PAR1"), ("/train.parquet", b"PAR1")],
    );
    assert!(
        matches!(hub(&server, cache.path()).dataset_files(&id("a/d")), Err(Error::Lacks { found, .. }) if found.is_empty())
    );
}

#[test]
fn an_endpoint_that_is_no_hub_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let portal = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>log in...").unwrap();
    });
    let cache = tempfile::tempdir().unwrap();
    let error = Hub::new(config(&endpoint, cache.path())).unwrap().model_dir(&id("a/b")).unwrap_err();
    portal.join().unwrap();
    let message = error.to_string();
    assert!(message.contains("not what a hub answers"), "{message}");
}
