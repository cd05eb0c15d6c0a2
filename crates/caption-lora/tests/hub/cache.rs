//! The download cache: its layout, which Python's huggingface_hub shares, and its behaviour when it cannot be
//! written.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::hub_client::{MODEL, config, hub, id, offline};
use crate::common::hub_server::HubServer;
use caption_lora::hub::{DatasetFiles, Error, Hub, HubConfig};

/// Every path below a folder, without following links, with its modification time.
fn tree(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut all = vec![(folder.to_owned(), fs::symlink_metadata(folder).unwrap().modified().unwrap())];
    if fs::symlink_metadata(folder).unwrap().is_dir() {
        for entry in fs::read_dir(folder).unwrap() {
            all.extend(tree(&entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.add("datasets", "a/d", "main", &[("x/y/1.png", &[1; 9]), ("x/y/1.txt", b"one")]);
    let hub = hub(&server, cache.path());
    let fetched = hub.model_dir(&id("a/b")).unwrap();
    let root = cache.path().join("models--a--b");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), fetched.commit);
    assert_eq!(fetched.folder, root.join("snapshots").join(&fetched.commit));
    let data = hub.dataset_files(&id("a/d")).unwrap();
    let DatasetFiles::ImageFolder(folder) = &data.files else { panic!("these are images") };
    // The links are relative, so that the cache can be moved.
    for (link, up) in
        [(fetched.folder.join("config.json"), "../../blobs"), (folder.join("x/y/1.png"), "../../../../blobs")]
    {
        let target = fs::read_link(&link).unwrap();
        assert_eq!(target.parent().unwrap(), Path::new(up));
        assert!(link.parent().unwrap().join(&target).is_file());
    }
    let moved = tempfile::tempdir().unwrap();
    let moved = moved.path().join("hub");
    fs::rename(cache.path(), &moved).unwrap();
    let folder = offline(&moved).model_dir(&id("a/b")).unwrap().folder;
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), [7; 5000]);
}

#[test]
fn files_downloaded_by_python_are_found() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let fetched = hub(&server, cache.path()).model_dir(&id("a/b")).unwrap();
    // Files that huggingface_hub also writes.
    let root = cache.path().join("models--a--b");
    fs::create_dir_all(root.join(".no_exist").join(&fetched.commit)).unwrap();
    fs::write(root.join(".no_exist").join(&fetched.commit).join("model.msgpack"), "").unwrap();
    fs::create_dir(root.join("trees")).unwrap();
    fs::write(cache.path().join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(cache.path().join("version.txt"), "1").unwrap();
    server.take_requests();
    assert_eq!(hub(&server, cache.path()).model_dir(&id("a/b")).unwrap(), fetched);
    assert_eq!(server.take_requests().len(), 1);
}

#[test]
fn a_cache_that_has_all_files_is_not_written_to() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.add("datasets", "a/d", "main", &[("1.png", &[1; 9]), ("metadata.jsonl", b"{}")]);
    let hub = hub(&server, cache.path());
    let (model, data) = (hub.model_dir(&id("a/b")).unwrap(), hub.dataset_files(&id("a/d")).unwrap());
    let before = tree(cache.path());
    assert_eq!(hub.model_dir(&id("a/b")).unwrap(), model);
    assert_eq!(hub.dataset_files(&id("a/d")).unwrap(), data);
    assert_eq!(tree(cache.path()), before);
}

#[test]
fn content_cached_from_another_commit_is_linked_instead_of_downloaded() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    hub.model_dir(&id("a/b")).unwrap();
    let mut files = MODEL.to_vec();
    files[2].1 = b"{\"vocab_size\": 9}";
    server.add("models", "a/b", "main", &files);
    server.take_requests();
    let folder = hub.model_dir(&id("a/b")).unwrap().folder;
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), [7; 5000]);
    assert!(server.take_requests().iter().all(|request| !request.path.starts_with("/cdn")));
}

#[test]
fn a_partial_file_of_a_killed_run_does_no_harm() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    let weights = hub.model_dir(&id("a/b")).unwrap().folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    // Half of the file; a damaged half; all of it, damaged; and too many bytes.
    for (partial, is_resumed) in
        [(vec![7; 2500], true), (vec![0; 2500], true), (vec![0; 5000], false), (vec![0; 6000], false)]
    {
        fs::remove_file(&weights).unwrap();
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("incomplete"), partial).unwrap();
        server.take_requests();
        hub.model_dir(&id("a/b")).unwrap();
        assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);
        let resumed = server.take_requests().iter().any(|r| r.range.as_deref() == Some("bytes=2500-"));
        assert_eq!(resumed, is_resumed);
    }
}

#[test]
fn a_blob_that_was_deleted_is_downloaded_again() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    let weights = hub.model_dir(&id("a/b")).unwrap().folder.join("model.safetensors");
    fs::remove_file(fs::canonicalize(&weights).unwrap()).unwrap();
    hub.model_dir(&id("a/b")).unwrap();
    assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);
}

#[test]
fn a_download_waits_for_the_lock_of_another_process() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let hub = hub(&server, cache.path());
    let weights = hub.model_dir(&id("a/b")).unwrap().folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    fs::remove_file(&blob).unwrap();
    let locks = cache.path().join(".locks/models--a--b");
    let lock = File::open(locks.join(blob.file_name().unwrap()).with_extension("lock")).unwrap();
    lock.lock().unwrap();
    server.take_requests();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| hub.model_dir(&id("a/b")));
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        // The other process has finished.
        fs::write(&blob, [7; 5000]).unwrap();
        lock.unlock().unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);
    assert!(
        server
            .take_requests()
            .iter()
            .all(|request| request.method == "HEAD" || request.path.starts_with("/api/models"))
    );
}

#[test]
fn offline_a_dataset_of_which_some_files_did_not_come_is_not_taken_for_a_whole_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        ("cats/1.png", &[1; 9]),
        ("cats/metadata.jsonl", b"{\"file_name\": \"1.png\", \"text\": \"a cat\"}"),
        ("dogs/1.png", &[2; 9]),
        ("dogs/metadata.jsonl", b"{\"file_name\": \"1.png\", \"text\": \"a dog\"}"),
    ];
    server.add("datasets", "a/d", "main", files);
    server.refuse("dogs/metadata.jsonl", "404 Not Found", &[], 1);
    hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap_err();
    let error = offline(cache.path()).dataset_files(&id("a/d")).unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error:?}");
    let whole = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap();
    assert_eq!(offline(cache.path()).dataset_files(&id("a/d")).unwrap(), whole);
}

#[test]
fn a_pinned_commit_whose_files_are_cached_is_not_asked_for() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    let adapter: &[(&str, &[u8])] = &[("adapter_config.json", b"{}"), ("adapter_model.safetensors", &[1; 9])];
    server.add("models", "a/lora", "main", adapter);
    server.add("datasets", "a/d", "main", &[("1.png", &[1; 9]), ("1.txt", b"one"), ("test/2.png", &[2; 9])]);
    let hub = hub(&server, cache.path());
    let pinned = |kind: &str, name: &str| id(&format!("{name}@{}", server.commit_of(kind, name, "main")));
    let model = hub.model_dir(&id("a/b")).unwrap();
    let lora = hub.adapter_dir(&id("a/lora")).unwrap();
    let data = hub.dataset_files(&id("a/d")).unwrap();
    server.take_requests();
    assert_eq!(hub.model_dir(&pinned("models", "a/b")).unwrap(), model);
    assert_eq!(hub.adapter_dir(&pinned("models", "a/lora")).unwrap(), lora);
    assert_eq!(hub.dataset_files(&pinned("datasets", "a/d")).unwrap(), data);
    assert_eq!(server.take_requests(), []);

    // Only the missing file of an incomplete snapshot is requested.
    let weights = model.folder.join("model.safetensors");
    fs::remove_file(fs::canonicalize(&weights).unwrap()).unwrap();
    assert_eq!(hub.model_dir(&pinned("models", "a/b")).unwrap(), model);
    assert_eq!(fs::read(&weights).unwrap(), [7; 5000]);
    let requests = server.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| !r.path.contains("/revision/")), "{requests:?}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_replaced_by_a_complete_cache() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.add("models", "a/b", "main", MODEL);
    server.add("datasets", "a/d", "main", &[("1.png", &[1; 9]), ("1.txt", b"one")]);
    let online = hub(&server, cache.path());
    let (model, data) = (online.model_dir(&id("a/b")).unwrap(), online.dataset_files(&id("a/d")).unwrap());
    assert_eq!((&model.outage, &data.outage), (&None, &None));
    let endpoint = server.endpoint();
    drop(server);

    let cached = online.model_dir(&id("a/b")).unwrap();
    assert_eq!((&cached.folder, &cached.commit), (&model.folder, &model.commit));
    let outage = cached.outage.unwrap();
    assert!(outage.starts_with(&format!("cannot reach {endpoint}")), "{outage}");
    let cached = online.dataset_files(&id("a/d")).unwrap();
    assert_eq!((&cached.files, &cached.commit), (&data.files, &data.commit));
    assert!(cached.outage.is_some());

    // A hub that accepts the connection and is silent.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", mute.local_addr().unwrap());
    let silent = HubConfig { timeout: Duration::from_millis(200), ..config(&address, cache.path()) };
    let cached = Hub::new(silent).unwrap().model_dir(&id("a/b")).unwrap();
    assert!(cached.outage.unwrap().contains("sent nothing"));

    // Neither another revision nor an incomplete copy is used, and the offline mode would not help.
    fs::remove_file(fs::canonicalize(model.folder.join("model.safetensors")).unwrap()).unwrap();
    for name in ["a/b@v2", "a/b"] {
        let error = online.model_dir(&id(name)).unwrap_err();
        assert!(matches!(error, Error::Unreachable { cached: false, .. }), "{error:?}");
        let message = error.to_string();
        let cache = format!("the cache {} has no complete copy", cache.path().display());
        assert!(message.contains(&cache) && !message.contains("HF_HUB_OFFLINE"), "{message}");
    }
}

#[test]
fn offline_held_out_files_are_counted_or_said_to_be_unknown() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] =
        &[("data/test-00000-of-00001.parquet", b"PAR1 test"), ("data/train-00000-of-00001.parquet", b"PAR1")];
    server.add("datasets", "a/d", "main", files);
    let online = hub(&server, cache.path()).dataset_files(&id("a/d")).unwrap();
    assert_eq!((online.left_out.count(), online.is_whole), (1, true));
    assert_eq!(offline(cache.path()).dataset_files(&id("a/d")).unwrap(), online);
    // A cache that Python filled has no list of files.
    fs::remove_dir_all(cache.path().join("datasets--a--d/listings")).unwrap();
    let unknown = offline(cache.path()).dataset_files(&id("a/d")).unwrap();
    assert_eq!((unknown.left_out.count(), unknown.is_whole), (0, false));
    assert_eq!(unknown.files, online.files);
}

#[cfg(unix)]
mod read_only {
    use std::env;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    const CACHE: &str = "TEST_READ_ONLY_CACHE";
    const ENDPOINT: &str = "TEST_READ_ONLY_ENDPOINT";
    /// The user `nobody`, for whom permissions apply even if the tests run as root.
    const NOBODY: u32 = 65534;

    fn set_mode(path: &Path, write: bool) {
        let metadata = fs::symlink_metadata(path).unwrap();
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                set_mode(&entry.unwrap().path(), write);
            }
        }
        if !metadata.is_symlink() {
            let mode = (if metadata.is_dir() { 0o555 } else { 0o444 }) | if write { 0o200 } else { 0 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Runs one of the tests below in a process that may not write to the cache.
    fn run(test: &str, cache: &Path, endpoint: &str) {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("test");
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(&program);
        let (_binary, module) = module_path!().split_once("::").unwrap();
        command.args(["--exact", &format!("{module}::{test}"), "--ignored", "--test-threads", "1"]);
        command.current_dir(folder.path()).env(CACHE, cache).env(ENDPOINT, endpoint);
        if fs::metadata(folder.path()).unwrap().uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        // A child that another test forks holds the file open for writing until it runs its own program.
        let output = loop {
            match command.output() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                output => break output.unwrap(),
            }
        };
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn from_environment() -> (PathBuf, caption_lora::hub::Hub) {
        let cache = PathBuf::from(env::var(CACHE).unwrap());
        assert!(File::create(cache.join("probe")).is_err(), "the cache can be written to");
        let config = crate::common::hub_client::config(&env::var(ENDPOINT).unwrap(), &cache);
        (cache, caption_lora::hub::Hub::new(config).unwrap())
    }

    #[test]
    fn a_read_only_cache_that_has_all_files_works_online() {
        let (server, folder) = (HubServer::start(), tempfile::tempdir().unwrap());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cache = folder.path().join("hub");
        server.add("models", "a/b", "main", MODEL);
        server.add("models", "a/more", "main", MODEL);
        hub(&server, &cache).model_dir(&id("a/b")).unwrap();
        // The branch has moved back, so that its reference would have to be written.
        fs::write(cache.join("models--a--b/refs/main"), "0".repeat(40)).unwrap();
        set_mode(&cache, false);
        run("all_files_are_there", &cache, &server.endpoint());
        run("a_file_is_missing", &cache, &server.endpoint());
        set_mode(&cache, true);
    }

    #[test]
    #[ignore = "run by the test above"]
    fn all_files_are_there() {
        let (_, hub) = from_environment();
        let folder = hub.model_dir(&id("a/b")).unwrap().folder;
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), [7; 5000]);
    }

    #[test]
    #[ignore = "run by the test above"]
    fn a_file_is_missing() {
        let (cache, hub) = from_environment();
        let error = hub.model_dir(&id("a/more")).unwrap_err();
        assert!(
            matches!(&error, Error::ReadOnlyCache { file: Some(file), .. } if file == "config.json"),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(message.contains("HF_HUB_CACHE") && message.contains(cache.to_str().unwrap()), "{message}");
    }

    #[test]
    fn foreign_locks_do_not_prevent_downloads() {
        let (server, folder) = (HubServer::start(), tempfile::tempdir().unwrap());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cache = folder.path().join("hub");
        fs::create_dir_all(cache.join(".locks")).unwrap();
        server.add("models", "a/b", "main", MODEL);
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
        set_mode(&cache.join(".locks"), false);
        run("the_locks_are_not_ours", &cache, &server.endpoint());
        set_mode(&cache.join(".locks"), true);
    }

    #[test]
    #[ignore = "run by the test above"]
    fn the_locks_are_not_ours() {
        let cache = PathBuf::from(env::var(CACHE).unwrap());
        assert!(File::create(cache.join(".locks/probe")).is_err());
        let config = crate::common::hub_client::config(&env::var(ENDPOINT).unwrap(), &cache);
        let folder = caption_lora::hub::Hub::new(config).unwrap().model_dir(&id("a/b")).unwrap().folder;
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), [7; 5000]);
    }
}
