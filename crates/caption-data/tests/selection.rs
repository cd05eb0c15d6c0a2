//! Which files of a dataset are trained on, by their names, and that datasets on disk follow this rule.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;

use caption_data::selection::{Refusal, files_of_split, image_folder, parquet_files, split_name};
use caption_data::{CaptionSource, ImageFolder, SourceOptions, open};
use common::{fixture, message};
use image::RgbImage;
use tempfile::TempDir;

#[test]
fn training_and_held_out_files_are_distinguished_as_in_datasets() {
    for (training, held_out) in [
        ("pokemon_train.parquet", "pokemon_test.parquet"),
        ("training-0.parquet", "test-0.parquet"),
        ("train1.parquet", "val1.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
        ("data/train-00000-of-00001-9f0c.parquet", "data/validation-00000-of-00001-9f0c.parquet"),
        ("Train/a.parquet", "Test/a.parquet"),
        // The innermost name decides.
        ("eval-prompts/train.parquet", "train-data/dev.parquet"),
        // The first name belongs to no split, but the second is held out.
        ("data.parquet", "evaluation.parquet"),
        ("trainers.parquet", "testing.parquet"),
    ] {
        assert_eq!(parquet_files(&[held_out, training]), Ok(vec![training]));
        assert_eq!(parquet_files(&[held_out]), Err(Refusal::HeldOut), "{held_out}");
    }
    let all = ["attest.parquet", "contest.parquet"];
    assert_eq!(parquet_files(&all), Ok(all.into()));
}

#[test]
fn a_split_is_found_by_its_name_as_in_datasets() {
    for (path, split) in [
        ("data/train-00000-of-00002.parquet", Some("train")),
        ("data/val-00000-of-00001-9f0c.parquet", Some("validation")),
        ("data/test_hard-00000-of-00001.parquet", Some("test_hard")),
        ("default/dev/0000.parquet", Some("validation")),
        ("default/partial-test_hard/0000.parquet", Some("test_hard")),
        ("pokemon_eval.parquet", Some("test")),
        ("shard-00000-of-00002.tar", None),
        ("data/0000.parquet", None),
    ] {
        assert_eq!(split_name(path).as_deref(), split, "{path}");
    }
    let files = [
        "data/test-00000-of-00001.parquet",
        "data/test_hard-00000-of-00002.parquet",
        "data/test_hard-00001-of-00002.parquet",
        "data/train-00000-of-00001.parquet",
        "data/val-00000-of-00001.parquet",
    ];
    assert_eq!(files_of_split(&files, "test"), Ok(vec![files[0]]));
    assert_eq!(files_of_split(&files, "test_hard"), Ok(vec![files[1], files[2]]));
    assert_eq!(files_of_split(&files, "train"), Ok(vec![files[3]]));
    for name in ["validation", "val", "dev"] {
        assert_eq!(files_of_split(&files, name), Ok(vec![files[4]]), "{name}");
    }
    let splits = ["test", "test_hard", "train", "validation"].map(str::to_owned).to_vec();
    assert_eq!(files_of_split(&files, "minival"), Err(Refusal::NoSplit { split: "minival".into(), splits }));
    let incomplete = Refusal::Incomplete { set: "data/test_hard".into(), have: 1, total: 2 };
    assert_eq!(files_of_split(&files[2..], "test_hard"), Err(incomplete));
    // Files that name no split are training files.
    assert_eq!(files_of_split(&["0000.tar", "0001.tar"], "train"), Ok(vec!["0000.tar", "0001.tar"]));
}

#[test]
fn a_split_of_several_configurations_is_that_of_the_default_one() {
    let files = ["default/test/0000.parquet", "fr/test/0000.parquet", "fr/train/0000.parquet"];
    assert_eq!(files_of_split(&files, "test"), Ok(vec![files[0]]));
    let several = Refusal::SeveralConfigurations(vec!["en".into(), "fr".into()]);
    assert_eq!(files_of_split(&["en/test/0000.parquet", files[1]], "test"), Err(several));
}

#[test]
fn configurations_are_never_mixed() {
    let several = parquet_files(&["en/train/0000.parquet", "fr/0000.parquet", "train.parquet"]);
    assert_eq!(several, Err(Refusal::SeveralConfigurations(vec![".".into(), "en".into()])));
    assert_eq!(
        parquet_files(&["default/train-0.parquet", "fr/train-0.parquet"]),
        Ok(vec!["default/train-0.parquet"])
    );
    let one = ["en/partial-train/0000.parquet", "en/train/0000.parquet"];
    assert_eq!(parquet_files(&one), Ok(one.into()));
}

#[test]
fn a_missing_part_is_an_error_and_other_numbers_are_not_parts() {
    let incomplete = |set: &str, have, total| Err(Refusal::Incomplete { set: set.into(), have, total });
    let counted = ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"];
    assert_eq!(parquet_files(&counted), incomplete("train", 2, 3));
    let twice = ["train-00000-of-00002-aaaa.parquet", "train-00000-of-00002-bbbb.parquet"];
    assert_eq!(parquet_files(&twice), incomplete("train", 1, 2));
    assert_eq!(parquet_files(&["train/0000.parquet", "train/0002.parquet"]), incomplete("train/", 2, 3));
    assert_eq!(parquet_files(&["0001.parquet"]), incomplete("./", 1, 2));
    for numbered in [["1.parquet", "3.parquet"], ["2019.parquet", "2021.parquet"]] {
        assert_eq!(parquet_files(&numbered), Ok(numbered.into()));
    }
}

#[test]
fn folder_names_decide_the_split_of_pictures() {
    let trained_on = |paths: &[&'static str]| -> Vec<&str> {
        let is_trained_on = image_folder(paths);
        paths.iter().copied().filter(|path| is_trained_on(path)).collect()
    };
    assert_eq!(
        trained_on(&["train/a/1.png", "train/1.txt", "test/a/1.png", "b.png"]),
        ["train/a/1.png", "train/1.txt"]
    );
    assert_eq!(trained_on(&["birds/1.png", "val2017/1.png", "test.png"]), ["birds/1.png", "test.png"]);
    let own = ["metadata.csv", "train/metadata.csv", "train/1.png", "test/metadata.csv"];
    assert_eq!(trained_on(&own), ["train/metadata.csv", "train/1.png"]);
    let shared = ["metadata.csv", "train/1.png", "test/1.png"];
    assert_eq!(trained_on(&shared), ["metadata.csv", "train/1.png"]);
}

// On disk

/// A folder of files: parquet files of 3 rows, pictures of one pixel, and texts.
fn dataset(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with(".parquet") {
            fs::copy(fixture("parquet/snapshot/data/train-00000-of-00003.parquet"), path).unwrap();
        } else if name.ends_with(".png") {
            RgbImage::new(1, 1).save(path).unwrap();
        } else {
            fs::write(path, text).unwrap();
        }
    }
    folder
}

fn captions(path: &Path) -> Vec<String> {
    let source = open(path, &SourceOptions::default()).unwrap();
    (0..source.len()).map(|row| source.caption(row).unwrap()).collect()
}

fn refusal(folder: &TempDir) -> String {
    message(&open(folder.path(), &SourceOptions::default()).err().unwrap())
}

#[test]
fn held_out_parquet_files_are_not_opened_with_the_training_files() {
    for [training, held_out] in [
        ["pokemon_train.parquet", "pokemon_test.parquet"],
        ["partial-train/0.parquet", "partial-test/0.parquet"],
    ] {
        let folder = dataset(&[(training, ""), (held_out, "")]);
        let source = open(folder.path(), &SourceOptions::default()).unwrap();
        assert_eq!((source.len(), source.name()), (3, folder.path().join(training).display().to_string()));
        // A held-out folder can be opened by its own path.
        assert_eq!(captions(&folder.path().join(held_out)).len(), 3);
    }
}

#[test]
fn parquet_files_without_a_complete_training_split_are_refused() {
    for (files, message) in [
        (["test-0.parquet", "validation-0.parquet"], "all parquet files are of held-out splits"),
        (["en/train.parquet", "fr/train.parquet"], "training split (en, fr); name one of them"),
        (
            ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
            "of the 3 parts of `train` only 2 are there",
        ),
    ] {
        let folder = dataset(&files.map(|file| (file, "")));
        let text = refusal(&folder);
        assert!(text.contains(message) && text.starts_with(&folder.path().display().to_string()), "{text}");
    }
}

#[test]
fn metadata_beside_parquet_files_do_not_hide_them() {
    let folder = dataset(&[("data/train.parquet", ""), ("notes/metadata.csv", "file_name,text\n")]);
    assert_eq!(captions(folder.path()).len(), 3);
}

const METADATA: &str = r#"{"file_name": "1.png", "text": "of its own folder"}"#;

#[test]
fn held_out_folders_of_pictures_are_not_opened_with_the_training_folder() {
    let folder = dataset(&[
        ("train/metadata.jsonl", METADATA),
        ("train/1.png", ""),
        ("test/metadata.jsonl", METADATA),
        ("test/1.png", ""),
    ]);
    assert_eq!(captions(folder.path()), ["of its own folder"]);
    assert_eq!(captions(&folder.path().join("test")).len(), 1);
    let folder =
        dataset(&[("a/1.txt", "train"), ("a/1.png", ""), ("val/1.txt", "held out"), ("val/1.png", "")]);
    assert_eq!(captions(folder.path()), ["train"]);
    let source = ImageFolder::open(folder.path(), &SourceOptions::default()).unwrap();
    assert_eq!(source.len(), 1);
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    assert!(refusal(&folder).contains("outside of folders of held-out splits"), "{}", refusal(&folder));
}

#[test]
fn metadata_for_all_folders_give_only_rows_of_the_training_folder() {
    let lines =
        ["train", "test"].map(|split| format!(r#"{{"file_name": "{split}/1.png", "text": "{split}"}}"#));
    // The files of the other pictures need not even exist.
    let folder = dataset(&[("metadata.jsonl", &lines.join("\n")), ("train/1.png", "")]);
    assert_eq!(captions(folder.path()), ["train"]);
}

// Links

#[cfg(unix)]
#[test]
fn a_loop_of_links_gives_every_row_once() {
    use std::os::unix::fs::symlink;
    let folder = dataset(&[("a/1.txt", "one"), ("a/1.png", "")]);
    symlink("..", folder.path().join("a/up")).unwrap();
    symlink(folder.path(), folder.path().join("again")).unwrap();
    assert_eq!(captions(folder.path()), ["one"]);
}

#[test]
fn files_in_deep_folders_are_found() {
    let deep = ["d"; 40].join("/");
    let folder = dataset(&[(&format!("{deep}/1.txt"), "one"), (&format!("{deep}/1.png"), "")]);
    assert_eq!(captions(folder.path()), ["one"]);
}

#[cfg(unix)]
#[test]
fn broken_links_are_left_out_and_counted_but_are_errors_in_the_cache_of_the_hub() {
    use std::os::unix::fs::symlink;
    let folder = dataset(&[("1.txt", "one"), ("1.png", "")]);
    symlink("/there/is/no/such/file", folder.path().join("notes.md")).unwrap();
    assert_eq!(captions(folder.path()), ["one"]);
    symlink("/there/is/no/such/file", folder.path().join("2.png")).unwrap();
    symlink("/there/is/no/such/folder", folder.path().join("more")).unwrap();
    assert_eq!(captions(folder.path()), ["one"]);
    let lines = |left_out: caption_data::LeftOut| -> Vec<String> {
        left_out.groups().map(ToString::to_string).collect()
    };
    let reported = ["2: links to files that are not there (2.png, more)"];
    let source = open(folder.path(), &SourceOptions::default()).unwrap();
    assert_eq!(lines(source.left_out()), reported);
    let found = caption_data::pictures_of(folder.path()).unwrap();
    assert_eq!(found.paths, [folder.path().join("1.png")]);
    assert_eq!(lines(found.left_out), reported);

    // Metadata that name it.
    let records = "file_name,text\n1.png,one\n2.png,two\n";
    fs::write(folder.path().join("metadata.csv"), records).unwrap();
    assert_eq!(captions(folder.path()), ["one"]);

    symlink("../../blobs/0f3a", folder.path().join("3.png")).unwrap();
    let text = refusal(&folder);
    assert!(text.contains("cannot read ") && text.contains("3.png: "), "{text}");
}
