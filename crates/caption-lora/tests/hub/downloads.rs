//! Models and adapters of a hub on the loopback.

use std::{fs, path::Path};

use crate::common::hub_client::{MODEL, hub, id, offline};
use crate::common::hub_server::{HubServer, Revision, commit};
use caption_lora::hub::Error;

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

    let fetched = hub.model_dir(&id("microsoft/git-base")).unwrap();
    let folder = &fetched.folder;
    let wanted = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];
    assert_eq!(names(folder), wanted);
    for (name, bytes) in MODEL.iter().filter(|(name, _)| wanted.contains(name)) {
        assert_eq!(fs::read(folder.join(name)).unwrap(), *bytes, "{name}");
    }
    let requests = server.take_requests();
    assert_eq!(requests[0].path, "/api/models/microsoft/git-base/revision/main");
    let asked = |path: &str| requests.iter().any(|request| request.path.starts_with(path));
    let at_commit = format!("/microsoft/git-base/resolve/{}/model.safetensors", fetched.commit);
    assert!(asked(&at_commit), "all files are of one commit, also where the branch moves meanwhile");
    assert!(asked("/cdn/models/microsoft/git-base/main/"));
    assert!(asked("/api/resolve-cache/models/microsoft/git-base/main/"));

    assert_eq!(hub.model_dir(&id("microsoft/git-base")).unwrap(), fetched);
    assert_eq!(server.take_requests().len(), 1, "a second run asks for the list of files alone");
}

#[test]
fn a_checkpoint_includes_all_tokenizer_and_processor_files() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    // Files that transformers 5 saves, and those of older versions.
    let newer: &[&str] = &[
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let older: &[&str] = &[
        "added_tokens.json",
        "config.json",
        "preprocessor_config.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];
    for (name, files) in [("a/newer", newer), ("a/older", older)] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, name.as_bytes())).collect();
        server.add("models", name, "main", &files);
        let folder = hub(&server, cache.path()).model_dir(&id(name)).unwrap().folder;
        assert_eq!(names(&folder), files.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}

#[test]
fn a_moved_branch_gets_a_new_snapshot_and_keeps_the_old_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let hub = hub(&server, cache.path());
    server.add("models", "a/b", "main", MODEL);
    let old = hub.model_dir(&id("a/b")).unwrap().folder;
    let mut files = MODEL.to_vec();
    files[2].1 = b"{\"model_type\": \"git\", \"vocab_size\": 9}";
    server.add("models", "a/b", "main", &files);
    let new = hub.model_dir(&id("a/b")).unwrap().folder;
    assert_ne!(old, new);
    assert_eq!(fs::read(new.join("config.json")).unwrap(), files[2].1);
    assert_eq!(fs::read(old.join("config.json")).unwrap(), MODEL[2].1);

    // The branch moves back: all files are cached, but the cache must not keep pointing to the newer commit.
    server.add("models", "a/b", "main", MODEL);
    assert_eq!(hub.model_dir(&id("a/b")).unwrap().folder, old);
    assert_eq!(offline(cache.path()).model_dir(&id("a/b")).unwrap().folder, old);
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
    assert_eq!(names(&hub.model_dir(&id("a/sharded")).unwrap().folder).len(), 5);
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
        names(&hub.adapter_dir(&id("me/lora")).unwrap().folder),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    assert_eq!(
        names(&hub.adapter_dir(&id("me/old")).unwrap().folder),
        ["adapter_config.json", "adapter_model.bin"]
    );
    server.add("models", "me/none", "main", &[("adapter_config.json", b"{}"), ("README.md", b"x")]);
    let message = hub.adapter_dir(&id("me/none")).unwrap_err().to_string();
    assert!(message.starts_with("adapter me/none lacks") && message.contains("README.md"), "{message}");
}

#[test]
fn a_revision_is_a_branch_or_a_commit() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files = MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
    let branch = Revision { files, ..Revision::default() };
    server.put("models", "a/b", "v2", branch.clone());
    server.put("datasets", "a/d", "refs/pr/3", branch.clone());
    let hub = hub(&server, cache.path());
    let fetched = hub.model_dir(&id("a/b@v2")).unwrap();
    assert_eq!(fetched.commit, commit(&branch));
    assert_eq!(hub.model_dir(&id(&format!("a/b@{}", fetched.commit))).unwrap(), fetched);
    let offline = offline(cache.path());
    assert_eq!(offline.model_dir(&id("a/b@v2")).unwrap(), fetched);
    assert_eq!(offline.model_dir(&id(&format!("a/b@{}", fetched.commit))).unwrap(), fetched);
    // The branch exists, but has no dataset.
    assert!(matches!(hub.dataset_files(&id("a/d@refs/pr/3")), Err(Error::Lacks { .. })));
    let message = hub.model_dir(&id("a/b@v3")).unwrap_err().to_string();
    assert!(message.contains("404") && message.contains("no branch, tag or commit `v3`"), "{message}");
}
