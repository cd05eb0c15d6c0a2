//! How hubs, mirrors and proxies respond to a download, and the result of each behaviour.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::hub_client::{MODEL, config, hub, id};
use crate::common::hub_server::{HubServer, Redirect, Revision, Ways};
use caption_lora::hub::{Error, Hub, HubConfig};
use sha2::{Digest as _, Sha256};

/// The model's files, with weights large enough to be cut.
fn files(weights: &[u8]) -> Vec<(&'static str, &[u8])> {
    let mut files = MODEL.to_vec();
    files[4].1 = weights;
    files
}

fn weights() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * i % 251) as u8).collect()
}

/// Checks that a folder has the bytes of the model.
fn assert_same(folder: &Path, files: &[(&str, &[u8])], what: &str) {
    let kept = ["config.json", "generation_config.json", "tokenizer.json", "vocab.txt", "model.safetensors"];
    for (name, bytes) in files.iter().filter(|(name, _)| kept.contains(name)) {
        assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{what}: {name}");
    }
}

fn all_ways(other: &HubServer) -> Vec<Ways> {
    let mut all = Vec::new();
    let port = Redirect::OtherPort(other.port());
    for place in [Redirect::No, Redirect::Relative, Redirect::Absolute, Redirect::OtherHost, port] {
        let ways = Ways { small: place, large: place, ..Ways::default() };
        all.extend([
            ways,
            Ways { ranges: false, ..ways },
            Ways { gzip: true, ..ways },
            Ways { lengthless: true, ..ways },
        ]);
    }
    all
}

#[test]
fn all_server_behaviours_give_the_same_bytes() {
    let (server, other) = (HubServer::start(), HubServer::start());
    let weights = weights();
    let files = files(&weights);
    for server in [&server, &other] {
        server.add("models", "a/b", "main", &files);
    }
    for ways in all_ways(&other) {
        server.answer(ways);
        other.answer(ways);
        let cache = tempfile::tempdir().unwrap();
        let folder = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap().folder;
        assert_same(&folder, &files, &format!("{ways:?}"));
    }
}

#[test]
fn a_small_file_that_comes_compressed_and_without_a_range_is_taken() {
    // The hub responds like this to a client that requests ranges and accepts gzip.
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "microsoft/git-base", "main", MODEL);
    server.answer(Ways { small: Redirect::No, gzip: true, ranges: false, ..Ways::default() });
    let folder = hub(&server, cache.path()).model_dir(&id("microsoft/git-base")).unwrap().folder;
    assert_same(&folder, MODEL, "compressed");
}

#[test]
fn a_cut_download_resumes_or_restarts() {
    let (server, other) = (HubServer::start(), HubServer::start());
    let weights = weights();
    let files = files(&weights);
    server.add("models", "a/b", "main", &files);
    // Without a length, a cut cannot be distinguished from the end.
    for ways in all_ways(&other).into_iter().filter(|ways| !ways.lengthless) {
        if !matches!(ways.small, Redirect::No | Redirect::OtherHost) {
            continue;
        }
        server.answer(ways);
        let cache = tempfile::tempdir().unwrap();
        let hub = hub(&server, cache.path());
        let folder = hub.model_dir(&id("a/b")).unwrap().folder;
        // Only the weights are missing, so that the cut affects them.
        let path = folder.join("model.safetensors");
        fs::remove_file(fs::canonicalize(&path).unwrap()).unwrap();
        server.take_requests();
        server.cut_downloads(1);
        hub.model_dir(&id("a/b")).unwrap();
        assert_same(&folder, &files, &format!("{ways:?}"));
        let asked = server.take_requests().into_iter().any(|r| r.range.as_deref() == Some("bytes=50000-"));
        assert_eq!(asked, !ways.gzip, "{ways:?}");
    }
}

#[test]
fn a_cut_or_refused_download_resumes() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let weights = weights();
    let files = files(&weights);
    server.add("models", "a/b", "main", &files);
    let hub = hub(&server, cache.path());
    // Only the weights are missing, so that the faults affect them.
    let folder = hub.model_dir(&id("a/b")).unwrap().folder;
    let weights_file = folder.join("model.safetensors");
    fs::remove_file(fs::canonicalize(&weights_file).unwrap()).unwrap();
    fs::remove_file(&weights_file).unwrap();

    server.take_requests();
    server.cut_downloads(2);
    server.refuse("cdn/", "503 Service Unavailable", &[], 1);
    hub.model_dir(&id("a/b")).unwrap();
    assert_same(&folder, &files, "cut");
    let ranges: Vec<_> = server.take_requests().into_iter().filter_map(|r| r.range).collect();
    assert_eq!(ranges.last().unwrap(), "bytes=75000-");
}

#[test]
fn a_download_that_is_always_cut_fails() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.answer(Ways { ranges: false, ..Ways::default() });
    server.cut_downloads(1000);
    let error = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(&error, Error::Cut { file: Some(file), .. } if file == "config.json"), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&server.endpoint()) && message.contains("run again to continue"), "{message}");
}

#[test]
fn altered_bytes_are_downloaded_again_or_reported_with_both_hashes() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    let weights = hub.model_dir(&id("a/b")).unwrap().folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    fs::remove_file(&blob).unwrap();
    server.alter_downloads(1);
    hub.model_dir(&id("a/b")).unwrap();
    assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);

    fs::remove_file(&blob).unwrap();
    server.alter_downloads(1000);
    let error = hub.model_dir(&id("a/b")).unwrap_err();
    assert!(
        matches!(&error, Error::Altered { file: Some(file), .. } if file == "model.safetensors"),
        "{error:?}"
    );
    let mut altered = [7; 5000];
    altered[0] = 6;
    let came: String = Sha256::digest(altered).iter().map(|byte| format!("{byte:02x}")).collect();
    let stated = blob.file_name().unwrap().to_str().unwrap();
    let message = error.to_string();
    let hashes = format!("they have SHA-256 {came}, and the hub states SHA-256 {stated}");
    assert!(message.contains(&hashes) && message.contains("run again"), "{message}");
    assert!(!blob.exists());
}

#[test]
fn a_stalled_download_resumes() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let weights = weights();
    let files = files(&weights);
    server.add("models", "a/b", "main", &files);
    server.stall_downloads(2);
    let config =
        HubConfig { timeout: Duration::from_millis(500), ..config(&server.endpoint(), cache.path()) };
    let folder = Hub::new(config).unwrap().model_dir(&id("a/b")).unwrap().folder;
    assert_same(&folder, &files, "stalled");
}

#[test]
fn the_token_is_sent_to_the_hub_and_to_no_other_host() {
    const TOKEN: &str = "hf_right";
    let (server, other) = (HubServer::start(), HubServer::start());
    let revision = |private: Option<&str>| Revision {
        files: MODEL.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect(),
        private: private.map(str::to_owned),
        gated: false,
    };
    server.put("models", "me/secret", "main", revision(Some(TOKEN)));
    other.put("models", "me/secret", "main", revision(None));
    let hub_host = server.endpoint().replace("http://", "");
    for ways in all_ways(&other) {
        for server in [&server, &other] {
            server.answer(ways);
            server.cut_downloads(usize::from(ways.ranges && !ways.gzip && !ways.lengthless));
        }
        let cache = tempfile::tempdir().unwrap();
        let config = HubConfig { token: Some(TOKEN.into()), ..config(&server.endpoint(), cache.path()) };
        let folder = Hub::new(config).unwrap().model_dir(&id("me/secret")).unwrap().folder;
        assert_same(&folder, MODEL, &format!("{ways:?}"));
        let requests = server.take_requests();
        assert!(requests.iter().any(|request| request.host == hub_host), "{ways:?}");
        for request in requests {
            let token = (request.host == hub_host).then(|| format!("Bearer {TOKEN}"));
            assert_eq!(request.authorization, token, "{ways:?}: {request:?}");
        }
        for request in other.take_requests() {
            assert_eq!(request.authorization, None, "{ways:?}: {request:?}");
        }
    }
}

#[test]
fn the_token_does_not_follow_when_the_list_of_files_is_redirected() {
    let (server, other, cache) = (HubServer::start(), HubServer::start(), tempfile::tempdir().unwrap());
    other.add("models", "a/b", "main", MODEL);
    server.add("models", "a/b", "main", MODEL);
    let location = format!("Location: {}/api/models/a/b/revision/main", other.endpoint());
    server.refuse("api/models", "307 Temporary Redirect", &[&location], 1);
    let config = HubConfig { token: Some("hf_right".into()), ..config(&server.endpoint(), cache.path()) };
    Hub::new(config).unwrap().model_dir(&id("a/b")).unwrap();
    let requests = other.take_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].authorization, None);
}

#[test]
fn a_busy_server_is_retried_after_the_requested_wait() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.refuse("api/models", "429 Too Many Requests", &["Retry-After: 1"], 1);
    server.refuse("resolve/", "429 Too Many Requests", &["RateLimit: \"resolvers\";r=0;t=1"], 1);
    server.refuse("cdn/", "503 Service Unavailable", &["Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"], 1);
    let start = Instant::now();
    let folder = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap().folder;
    assert_same(&folder, MODEL, "busy");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_long_wait_is_reported_immediately() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.refuse("api/models", "429 Too Many Requests", &["Retry-After: 3600"], 1);
    let message = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err().to_string();
    let says = |words: &str| assert!(message.contains(words), "{message}");
    says("429");
    says("run again in 3600 s");
    says("HF_TOKEN");
    says(&server.endpoint());
}

#[test]
fn a_gated_repository_that_answers_401_is_not_called_misspelt() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "big/gated", "main", MODEL);
    server.refuse("resolve/", "401 Unauthorized", &["X-Error-Code: GatedRepo"], 1);
    let message = hub(&server, cache.path()).model_dir(&id("big/gated")).unwrap_err().to_string();
    let page = format!("log in at {}/big/gated, accept its licence", server.endpoint());
    assert!(message.contains(&page) && !message.contains("spelling"), "{message}");
}

#[test]
fn expired_signatures_are_renewed_and_refusing_hosts_named() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.refuse("cdn/", "403 Forbidden", &[], 1);
    let folder = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap().folder;
    assert_same(&folder, MODEL, "expired");

    let cache = tempfile::tempdir().unwrap();
    server.refuse("cdn/", "403 Forbidden", &[], 1000);
    let message = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err().to_string();
    let host = format!("http://localhost:{}/cdn/", server.port());
    assert!(message.contains(&host) && message.contains("redirected the download"), "{message}");
    assert!(!message.contains("signature") && !message.contains("gated"), "{message}");
}

#[test]
fn circular_and_invalid_redirects_are_errors() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let message = |status, headers: &[&str]| {
        server.refuse("resolve/", status, headers, 11);
        let error = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err();
        assert!(
            matches!(&error, Error::NotAHub { file: Some(file), .. } if file == "config.json"),
            "{error:?}"
        );
        error.to_string()
    };
    let circle = message("302 Found", &["Location: /a/b/resolve/x"]);
    assert!(circle.contains("more than 10 redirects"), "{circle}");
    let nowhere = message("302 Found", &["Location: ftp://elsewhere/x"]);
    assert!(nowhere.contains("`ftp://elsewhere/x`"), "{nowhere}");
}

#[test]
fn responses_without_an_etag_are_not_from_a_hub() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.refuse("resolve/", "200 OK", &[], 1);
    let message = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err().to_string();
    assert!(message.contains("lack an ETag") && message.contains("HF_ENDPOINT"), "{message}");
}

#[test]
fn a_git_lfs_pointer_instead_of_weights_is_reported() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 706000000\n";
    server.add("models", "a/b", "main", &files(pointer));
    let error = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap_err();
    assert!(matches!(&error, Error::LfsPointer { file, .. } if file == "model.safetensors"), "{error:?}");
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}
