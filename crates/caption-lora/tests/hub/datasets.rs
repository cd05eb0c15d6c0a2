//! Datasets of a hub on the loopback.

use std::{fs, path::Path};

use crate::common::hub_client::{hub, id, offline};
use crate::common::hub_server::HubServer;
use caption_data::{CaptionSource, ImageFolder, LeftOut, SourceOptions};
use caption_lora::hub::{DatasetFiles, Error, FetchedDataset};

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

#[test]
fn a_split_of_a_dataset_is_chosen_by_its_name() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        ("data/train-00000-of-00001.parquet", b"PAR1 train"),
        ("data/validation-00000-of-00001.parquet", b"PAR1 validation"),
    ];
    server.add("datasets", "a/d", "main", files);
    server.add("datasets", "a/pictures", "main", &[("val/cat.png", &[1; 50]), ("val/metadata.jsonl", b"{}")]);
    server.add(
        "datasets",
        "a/pictures",
        "refs/convert/parquet",
        &[("default/validation/0000.parquet", b"PAR1 0")],
    );
    server.add("datasets", "a/plain", "main", &[("val/cat.png", &[1; 50]), ("val/metadata.jsonl", b"{}")]);
    let hub = || hub(&server, cache.path());
    let read = |name: &str| {
        let fetched = hub().dataset_files(&id(name)).unwrap();
        assert!(fetched.left_out.is_empty(), "{:?}", fetched.left_out);
        let DatasetFiles::Parquet(files) = fetched.files else { panic!("these are parquet files") };
        files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(read("a/d:validation"), ["PAR1 validation"]);
    assert_eq!(read("a/d@main:val"), ["PAR1 validation"]);
    assert_eq!(read("a/d:train"), ["PAR1 train"]);
    assert_eq!(read("a/pictures:validation"), ["PAR1 0"]);

    let refusal = |name: &str| hub().dataset_files(&id(name)).unwrap_err().to_string();
    assert_eq!(
        refusal("a/d:test"),
        "dataset a/d:test: there is no split `test`; there are train, validation"
    );
    assert!(refusal("a/plain:val").contains("neither parquet nor tar files"), "{}", refusal("a/plain:val"));
    let model = hub().model_dir(&id("a/m:train")).unwrap_err();
    assert!(
        matches!(model, Error::SplitOfModel { .. }) && model.to_string().contains("a/m:train"),
        "{model}"
    );
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
