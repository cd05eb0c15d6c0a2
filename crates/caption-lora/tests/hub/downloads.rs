//! The hub's client against a hub on the loopback.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use crate::common::hub_client::{MODEL, config, hub, id, offline};
use crate::common::hub_server::{HubServer, Redirect, Revision, Ways, commit};
use caption_data::{CaptionSource, ImageFolder, LeftOut, SourceOptions};
use caption_lora::hub::{DatasetFiles, Error, FetchedDataset, Hub, HubConfig};

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
        hub(&server, cache.path()).dataset_files(&id("reach-vb/pokemon-blip-captions")).unwrap().files
    else {
        panic!("these are parquet files");
    };
    let contents: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(contents, ["PAR1 first", "PAR1 second"]);
    assert_eq!(server.take_requests()[0].path, "/api/datasets/reach-vb/pokemon-blip-captions/revision/main");
}

#[test]
fn a_dataset_in_another_format_is_read_from_the_hubs_conversion() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("datasets", "a/d", "main", &[("train/cat.png", &[1; 50]), ("train/metadata.jsonl", b"{}")]);
    let converted: &[(&str, &[u8])] =
        &[("default/train/0000.parquet", b"PAR1 0"), ("default/train/0001.parquet", b"PAR1 1")];
    server.add("datasets", "a/d", "refs/convert/parquet", converted);
    let online = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap().files;
    let DatasetFiles::Parquet(files) = &online else { panic!("these are parquet files") };
    assert_eq!(fs::read(&files[1]).unwrap(), b"PAR1 1");
    assert_eq!(offline(cache.path()).dataset_files(&id("a/d")).unwrap().files, online);
}

/// The files below a folder, links followed.
fn below(folder: &Path) -> Vec<String> {
    let root = folder.to_str().unwrap().to_owned() + "/";
    let contents = crate::common::programs::contents(folder);
    contents.into_iter().map(|(path, _)| path.to_str().unwrap().strip_prefix(&root).unwrap().into()).collect()
}

#[test]
fn a_dataset_of_plain_images_becomes_their_folder() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        (".cache/x.png", &[9; 50]),
        ("README.md", b"# drawings"),
        ("test/x.png", &[9; 50]),
        ("train/0/cat.png", &[1; 50]),
        ("train/dog.png", &[2; 60]),
        ("train/metadata.jsonl", b"{}"),
    ];
    server.add("datasets", "a/folder", "main", files);
    let FetchedDataset { files: DatasetFiles::ImageFolder(folder), .. } =
        hub(&server, cache.path()).dataset_files(&id("a/folder")).unwrap()
    else {
        panic!("these are images")
    };
    assert_eq!(below(&folder), ["train/0/cat.png", "train/dog.png", "train/metadata.jsonl"]);
    assert_eq!(fs::read(folder.join("train/0/cat.png")).unwrap(), [1; 50]);
}

/// The captions of the dataset at `path`, read locally and through a hub.
fn captions_here_and_there(path: &Path) -> [Vec<String>; 2] {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add_folder("datasets", "a/d", path);
    let captions =
        |source: &dyn CaptionSource| (0..source.len()).map(|row| source.caption(row).unwrap()).collect();
    let options = SourceOptions::default();
    let here = caption_data::open(path, &options).unwrap();
    let DatasetFiles::ImageFolder(folder) =
        hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap().files
    else {
        panic!("these are images")
    };
    [captions(&here), captions(&ImageFolder::open(folder, &options).unwrap())]
}

#[test]
fn metadata_of_several_folders_bring_all_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    for animal in ["cats", "dogs"] {
        let folder = folder.path().join(animal);
        fs::create_dir(&folder).unwrap();
        let mut metadata = String::new();
        for row in 0..12 {
            fs::write(folder.join(format!("{row:02}.png")), format!("{animal} {row}")).unwrap();
            metadata +=
                &format!("{{\"file_name\": \"{row:02}.png\", \"text\": \"number {row} of the {animal}\"}}\n");
        }
        fs::write(folder.join("metadata.jsonl"), metadata).unwrap();
    }
    let [here, there] = captions_here_and_there(folder.path());
    assert_eq!((there.len(), &there), (24, &here));
    assert_eq!([&there[0], &there[23]], ["number 0 of the cats", "number 11 of the dogs"]);
}

#[test]
fn text_files_of_several_folders_bring_all_their_rows() {
    // The layout of kohya's trainers: the number is the repeat count of a folder.
    let folder = tempfile::tempdir().unwrap();
    for (name, rows) in [("10_girl", 16), ("5_boy", 8)] {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        for row in 0..rows {
            fs::write(folder.join(format!("{row:02}.jpg")), format!("{name} {row}")).unwrap();
            fs::write(folder.join(format!("{row:02}.txt")), format!("{name}, number {row}")).unwrap();
        }
    }
    let [here, there] = captions_here_and_there(folder.path());
    assert_eq!((there.len(), &there), (24, &here));
    assert_eq!([&there[0], &there[23]], ["10_girl, number 0", "5_boy, number 7"]);
}

#[test]
fn text_files_are_read_although_the_hub_converted_their_images_without_them() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("datasets", "a/d", "main", &[("1.jpg", &[1; 50]), ("1.txt", b"one")]);
    server.add("datasets", "a/d", "refs/convert/parquet", &[("default/train/0000.parquet", b"PAR1 no text")]);
    let files = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap().files;
    assert!(matches!(files, DatasetFiles::ImageFolder(_)), "{files:?}");
}

#[test]
fn an_array_of_metadata_brings_all_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    for row in 0..3 {
        fs::write(folder.path().join(format!("{row}.png")), format!("picture {row}")).unwrap();
    }
    let rows: Vec<_> = (0..3)
        .map(|row| serde_json::json!({ "file_name": format!("{row}.png"), "text": format!("number {row}") }))
        .collect();
    fs::write(folder.path().join("metadata.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    let [here, there] = captions_here_and_there(folder.path());
    assert_eq!(there, ["number 0", "number 1", "number 2"]);
    assert_eq!(here, there);
}

#[test]
fn an_array_of_metadata_is_read_although_the_hub_converted_its_images_without_it() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let converted: &[(&str, &[u8])] = &[("default/train/0000.parquet", b"PAR1 no text")];
    for (name, metadata) in [("a/array", "\n [{\"file_name\": \"1.jpg\"}]"), ("a/object", "{\"1.jpg\": {}}")]
    {
        let files: &[(&str, &[u8])] = &[("1.jpg", &[1; 50]), ("metadata.json", metadata.as_bytes())];
        server.add("datasets", name, "main", files);
        server.add("datasets", name, "refs/convert/parquet", converted);
    }
    let hub = hub(&server, cache.path());
    let files = |name: &str| hub.dataset_files(&id(name)).unwrap().files;
    assert!(matches!(files("a/array"), DatasetFiles::ImageFolder(_)));
    assert!(matches!(files("a/object"), DatasetFiles::Parquet(_)), "an object is of another program");
}

#[test]
fn a_partly_converted_dataset_is_refused() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let part: &[(&str, &[u8])] = &[("default/partial-train/0000.parquet", b"PAR1 a part")];
    server.add("datasets", "a/images", "main", &[("1.jpg", &[1; 50]), ("metadata.jsonl", b"{}")]);
    server.add("datasets", "a/csv", "main", &[("train.csv", b"x")]);
    for name in ["a/images", "a/csv"] {
        server.add("datasets", name, "refs/convert/parquet", part);
    }
    let hub = hub(&server, cache.path());
    let files = hub.dataset_files(&id("a/images")).unwrap().files;
    assert!(matches!(files, DatasetFiles::ImageFolder(_)), "{files:?}");
    let message = hub.dataset_files(&id("a/csv")).unwrap_err().to_string();
    assert!(message.contains("only a part") && message.contains("a/csv@refs/convert/parquet"), "{message}");
    let files = hub.dataset_files(&id("a/csv@refs/convert/parquet")).unwrap().files;
    assert!(matches!(&files, DatasetFiles::Parquet(files) if files.len() == 1), "{files:?}");
}

/// The lines in which the set-up lists what is left out.
fn lines(left_out: &LeftOut) -> Vec<String> {
    left_out.groups().map(ToString::to_string).collect()
}

#[test]
fn files_that_are_not_downloaded_are_reported_as_of_a_local_folder() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let tables: &[(&str, &[u8])] = &[
        ("README.md", b"x"),
        ("data/test-00000-of-00001.parquet", b"PAR1 test"),
        ("data/train-00000-of-00001.parquet", b"PAR1"),
        ("logo.png", &[9; 50]),
    ];
    server.add("datasets", "a/tables", "main", tables);
    let images: &[(&str, &[u8])] = &[
        (".cache/x.png", &[9; 50]),
        ("cups/1.png", &[1; 50]),
        ("cups/1.txt", b"a cup"),
        ("test tubes/1.png", &[2; 50]),
        ("test tubes/1.txt", b"a tube"),
        ("test tubes/2.png", &[3; 50]),
        ("test tubes/2.txt", b"another tube"),
    ];
    server.add("datasets", "a/images", "main", images);
    let hub = hub(&server, cache.path());
    let held_out =
        |part: &str| format!("in a held-out split, because the name `{part}` has the word \"test\"");
    assert_eq!(
        lines(&hub.dataset_files(&id("a/tables")).unwrap().left_out),
        [
            format!("1: {} (data/test-00000-of-00001.parquet)", held_out("data/test-00000-of-00001.parquet")),
            "1: not read beside parquet or Arrow files (logo.png)".to_owned(),
        ]
    );
    let fetched = hub.dataset_files(&id("a/images")).unwrap();
    assert_eq!(
        lines(&fetched.left_out),
        [
            format!("2: {} (test tubes/1.png, test tubes/2.png)", held_out("test tubes")),
            "1: hidden (.cache/x.png)".to_owned(),
        ]
    );
    // Files that Python downloaded into the same folder are counted by its reader alone.
    let DatasetFiles::ImageFolder(folder) = fetched.files else { panic!("these are images") };
    fs::create_dir(folder.join("test tubes")).unwrap();
    fs::write(folder.join("test tubes/1.png"), [2; 50]).unwrap();
    assert_eq!(hub.dataset_files(&id("a/images")).unwrap().left_out.count(), 2);
}

#[test]
fn a_dataset_of_save_to_disk_is_refused_with_what_to_do() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] =
        &[("data-00000-of-00001.arrow", b"x"), ("dataset_info.json", b"{}"), ("state.json", b"{}")];
    server.add("datasets", "a/saved", "main", files);
    let error = hub(&server, cache.path()).dataset_files(&id("a/saved")).unwrap_err();
    assert!(matches!(error, Error::SavedToDisk { .. }), "{error:?}");
    let message = error.to_string();
    for words in ["dataset a/saved", "`save_to_disk`", "`Dataset.push_to_hub`", "download it"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn the_password_of_an_endpoint_is_in_no_message() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.put("models", "big/gated", "main", Revision { gated: true, ..Revision::default() });
    let host = server.endpoint().replace("http://", "");
    let endpoint = format!("http://ada:secret@{host}");
    let messages = |endpoint: &str| {
        let hub = Hub::new(config(endpoint, cache.path())).unwrap();
        ["a/none", "big/gated@v9"].map(|name| {
            let error = hub.model_dir(&id(name)).unwrap_err();
            format!("{error} {error:?}")
        })
    };
    for message in messages(&endpoint) {
        assert!(message.contains(&format!("http://***@{host}/")), "{message}");
        assert!(!message.contains("secret") && !message.contains("ada:"), "{message}");
    }
    drop(server);
    for message in messages(&endpoint) {
        assert!(message.contains("cannot reach http://***@") && !message.contains("secret"), "{message}");
    }
}

#[test]
fn metadata_in_parquet_are_no_table_and_pictures_that_are_not_read_come_along_to_be_counted() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        ("1.png", &[1; 50]),
        ("2.heic", &[2; 50]),
        ("3.tiff", &[3; 50]),
        ("LICENSE", b"MIT"),
        ("metadata.parquet", b"PAR1"),
        ("model.zip", &[4; 50]),
    ];
    server.add("datasets", "a/d", "main", files);
    let files = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap().files;
    let DatasetFiles::ImageFolder(folder) = files else { panic!("these are images") };
    assert_eq!(below(&folder), ["1.png", "2.heic", "3.tiff", "metadata.parquet"]);
}

#[test]
fn a_captioned_picture_in_a_format_that_is_not_read_is_counted() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] =
        &[("1.jpg", &[1; 50]), ("1.txt", b"one"), ("2.xcf", &[2; 50]), ("2.txt", b"two")];
    server.add("datasets", "a/d", "main", files);
    let DatasetFiles::ImageFolder(folder) =
        hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap().files
    else {
        panic!("these are images")
    };
    assert_eq!(below(&folder), ["1.jpg", "1.txt", "2.txt", "2.xcf"]);
    let source = ImageFolder::open(folder, &SourceOptions::default()).unwrap();
    assert_eq!((source.len(), source.left_out().count()), (1, 1));
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
    assert!(with_token(Some("hf_right")).unwrap().folder.join("model.safetensors").exists());
}

#[test]
fn a_gated_repository_names_the_page_where_to_ask() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files = MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
    server.put("models", "big/gated", "main", Revision { files, private: None, gated: true });
    let error = hub(&server, cache.path()).model_dir(&id("big/gated")).unwrap_err();
    let Error::Refused(refusal) = &error else { panic!("{error}") };
    assert_eq!((refusal.status, refusal.file.as_deref()), (403, Some("config.json")));
    let message = error.to_string();
    let page = format!("log in at {}/big/gated, accept its licence", server.endpoint());
    assert!(message.contains(&page) && message.contains("set HF_TOKEN"), "{message}");
}

#[test]
fn a_misspelt_name_is_reported() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let message = hub(&server, cache.path()).model_dir(&id("microsoft/git-bass")).unwrap_err().to_string();
    assert!(
        message.contains("model microsoft/git-bass") && message.contains("check the spelling"),
        "{message}"
    );
    let here = std::env::current_dir().unwrap();
    let local = format!("there is no file or folder `microsoft/git-bass` in {}", here.display());
    assert!(
        message.contains(&local) && message.contains("on the hub there is no such repository"),
        "{message}"
    );
    assert!(message.contains(&server.endpoint()), "{message}");
}

#[test]
fn without_a_connection_the_message_says_what_can_be_done() {
    let cache = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("http://127.0.0.1:{port}");
    let unreachable = || Hub::new(config(&nobody, cache.path())).unwrap().model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(unreachable(), Error::Unreachable { cached: false, .. }));
    let message = unreachable().to_string();
    assert!(message.contains(&nobody) && message.contains("HF_ENDPOINT"), "{message}");
    assert!(message.contains("has no complete copy") && !message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn a_file_that_cannot_be_reached_does_not_lead_to_an_older_copy_unasked() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    hub.model_dir(&id("a/b")).unwrap();
    let mut files = MODEL.to_vec();
    files[4].1 = &[9; 5000];
    server.add("models", "a/b", "main", &files);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    server.answer(Ways { large: Redirect::OtherPort(port), ..Ways::default() });
    let error = hub.model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { file: Some(_), cached: true, .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("file model.safetensors") && message.contains("HF_HUB_OFFLINE=1"), "{message}");
}

#[test]
fn a_repository_with_an_adapter_alone_is_no_model() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let adapter: &[(&str, &[u8])] =
        &[("adapter_config.json", b"{}"), ("adapter_model.safetensors", &[1; 99])];
    let companions: &[(&str, &[u8])] = &[("config.json", b"{}"), ("tokenizer.json", b"{}")];
    server.add("models", "me/lora", "main", adapter);
    server.add("models", "me/lora-too", "main", &[adapter, companions].concat());
    for name in ["me/lora", "me/lora-too"] {
        let error = hub(&server, cache.path()).model_dir(&id(name)).unwrap_err();
        assert!(matches!(error, Error::IsAdapter { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("model {name} is an adapter")), "{error}");
    }
}

#[test]
fn a_silent_hub_times_out() {
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
fn offline_a_second_run_needs_no_hub() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.add("datasets", "a/d", "main", &[("data/train-00000-of-00001.parquet", b"PAR1")]);
    let online = hub(&server, cache.path());
    let (model, data) =
        (online.model_dir(&id("a/b")).unwrap().folder, online.dataset_files(&id("a/d")).unwrap().files);
    server.take_requests();
    let offline = offline(cache.path());
    assert_eq!(offline.model_dir(&id("a/b")).unwrap().folder, model);
    assert_eq!(offline.dataset_files(&id("a/d")).unwrap().files, data);
    assert_eq!(server.take_requests(), []);

    let message = offline.model_dir(&id("a/other")).unwrap_err().to_string();
    assert!(
        message.contains("model a/other is not in the cache") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );
    let other = offline.model_dir(&id("a/b@v2")).unwrap_err().to_string();
    assert!(other.contains("other revisions of it: main"), "{other}");
    // It could also be a mistyped path.
    let here = std::env::current_dir().unwrap();
    assert!(message.contains(&format!("no such file or folder in {}", here.display())), "{message}");
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
        let DatasetFiles::Parquet(files) = hub.dataset_files(&id(name)).unwrap().files else {
            panic!("these are parquet files")
        };
        // The state after an interruption: the last part comes first.
        fs::remove_file(&files[0]).unwrap();
        let message = offline(cache.path()).dataset_files(&id(name)).unwrap_err().to_string();
        assert!(message.contains("only 1 of 2") && message.contains("HF_HUB_OFFLINE"), "{message}");
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
fn an_endpoint_that_is_no_hub_is_reported() {
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
