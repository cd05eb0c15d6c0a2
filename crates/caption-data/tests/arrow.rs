//! Folders of `save_to_disk` (fixtures/make_layouts.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use common::folders::{assert_rows, open_at, picture, refusal};
use common::{fixture, message};
use tempfile::TempDir;

#[test]
fn saved_datasets_are_read_in_all_their_shards() {
    assert_rows(open_at(fixture("layouts/saved")), 5);
    let source = open_at(fixture("layouts/saved")).unwrap();
    assert!((0..5).all(|row| source.fingerprint(row).unwrap() != source.fingerprint((row + 1) % 5).unwrap()));
}

#[test]
fn the_training_split_of_a_saved_dataset_dict_is_read() {
    assert_rows(open_at(fixture("layouts/saved_dict")), 3);
    let source = open_at(fixture("layouts/saved_dict")).unwrap();
    let left_out: Vec<String> = source.left_out().groups().map(ToString::to_string).collect();
    assert_eq!(
        left_out,
        [
            "1: in a held-out split, because the name `test` has the word \"test\" (test/data-00000-of-00001.arrow)"
        ]
    );
    // A split that is opened by its own path.
    let test = open_at(fixture("layouts/saved_dict/test")).unwrap();
    assert_eq!(
        (test.len(), test.caption(0).unwrap(), test.image(0).unwrap()),
        (2, "picture 3".to_owned(), picture(3))
    );
}

#[test]
fn plain_bytes_and_large_strings_are_read_and_null_is_blank() {
    let source = open_at(fixture("layouts/saved_strings")).unwrap();
    assert_eq!((source.len(), source.caption(2).unwrap()), (3, "picture 2".to_owned()));
    assert_eq!(source.image(1).unwrap(), picture(1));
    assert!(message(&source.caption(1).unwrap_err()).contains("the caption is blank"));
}

/// A copy of the saved dataset.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("layouts/saved")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn cache_files_of_datasets_are_ignored_and_a_missing_shard_is_an_error() {
    let folder = copy();
    let shard = folder.path().join("data-00000-of-00002.arrow");
    fs::copy(&shard, folder.path().join("cache-0123456789abcdef.arrow")).unwrap();
    assert_rows(open_at(folder.path()), 5);
    assert_eq!(open_at(folder.path()).unwrap().left_out().count(), 1);
    fs::remove_file(&shard).unwrap();
    let text = refusal(open_at(folder.path()));
    assert!(text.contains("of the 2 parts of `data` only 1 are there"), "{text}");
}

#[test]
fn damaged_arrow_files_are_refused_and_never_panic() {
    let folder = copy();
    let shard = folder.path().join("data-00001-of-00002.arrow");
    let whole = fs::read(&shard).unwrap();
    for length in [0, 5, 100, whole.len() / 2, whole.len() - 100] {
        fs::write(&shard, &whole[..length]).unwrap();
        let text = refusal(open_at(&shard));
        assert!(text.contains("data-00001-of-00002.arrow: ") || text.contains("no rows"), "{length}: {text}");
    }
    fs::write(&shard, b"not an Arrow file").unwrap();
    assert!(refusal(open_at(&shard)).contains("not an Arrow stream"));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&shard, &damaged).unwrap();
        if let Ok(source) = open_at(&shard) {
            (0..source.len().min(4)).for_each(|row| drop((source.caption(row), source.image(row))));
        }
    }
}
