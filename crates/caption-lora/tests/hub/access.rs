//! Refused access, hubs that are not reached, and the cache in place of a hub.

use std::{fs, net::TcpListener, time::Duration};

use crate::common::hub_client::{MODEL, config, hub, id, offline};
use crate::common::hub_server::{HubServer, Redirect, Revision, Ways};
use caption_lora::hub::{DatasetFiles, Error, Hub, HubConfig};

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
