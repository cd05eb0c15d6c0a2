//! Files of a folder that are left out, and why.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use caption_data::{CaptionSource as _, ImageFolder, LeftOutReason, SourceOptions, open};
use common::fixture;
use common::folders::{assert_rows, folder, left_out, open_at, refusal};

const JSONL: &str = "{\"file_name\": \"0.png\", \"text\": \"picture 0\"}\n{\"file_name\": \"1.png\", \"text\": \"picture 1\"}\n";

#[test]
fn files_left_out_of_a_text_file_folder_are_counted_by_reason() {
    let files: [(&str, &[u8]); 8] = [
        ("cats/0.txt", b"picture 0"),
        ("cats/orphan.txt", b"no"),
        ("cats/1.svg", b"<svg/>"),
        ("test tubes/2.txt", b"no"),
        ("dev boards/3.txt", b"no"),
        ("__new/5.txt", b"no"),
        ("__MACOSX/cats/._0.png", b""),
        ("cats/._0.png", b""),
    ];
    let pictures = [
        "cats/0.png",
        "test tubes/2.png",
        "test tubes/sub/3.png",
        "dev boards/3.png",
        "cats/.4.png",
        "__new/5.png",
    ];
    assert_eq!(
        left_out(&folder(&files, &pictures)),
        [
            "1: in a held-out split, because the name `dev boards` has the word \"dev\" (dev boards/3.png)",
            "2: in a held-out split, because the name `test tubes` has the word \"test\" \
             (test tubes/2.png, test tubes/sub/3.png)",
            "1: SVG pictures are not read; convert them to PNG or JPEG (cats/1.svg)",
            "2: hidden (__new, cats/.4.png)",
            "1: captions without a picture (cats/orphan.txt)",
        ]
    );
}

#[test]
fn folders_of_systems_are_skipped() {
    let files: [(&str, &[u8]); 6] = [
        ("cats/0.txt", b"picture 0"),
        ("cats/Thumbs.db", b"no"),
        ("cats/desktop.ini", b"no"),
        ("cats/@eaDir/0.txt", b"no"),
        (".AppleDouble/0.txt", b"no"),
        ("lost+found/0.txt", b"no"),
    ];
    let pictures = [
        "cats/0.png",
        "cats/@eaDir/0.png/SYNOPHOTO_THUMB_XL.png",
        "cats/@eaDir/0.png/0.png",
        ".AppleDouble/0.png",
        "lost+found/0.png",
        "$RECYCLE.BIN/0.png",
    ];
    let folder = folder(&files, &pictures);
    assert_rows(open_at(folder.path()), 1);
    assert_eq!(left_out(&folder), [""; 0]);
    let found = caption_data::pictures_of(folder.path()).unwrap();
    assert_eq!((found.paths, found.left_out.count()), (vec![folder.path().join("cats/0.png")], 0));
}

#[test]
fn files_left_out_by_metadata_are_counted_by_reason() {
    let lines = format!("{JSONL}{{\"file_name\": \"test/gone.png\", \"text\": \"no\"}}\n");
    let files: [(&str, &[u8]); 3] =
        [("metadata.jsonl", lines.as_bytes()), ("metadata.csv", b"no"), ("photo.heic", b"no")];
    let folder = folder(&files, &["0.png", "1.png", "2.png", "test/3.png"]);
    assert_eq!(
        left_out(&folder),
        [
            "2: in a held-out split, because the name `test` has the word \"test\" (test/3.png, test/gone.png)",
            "1: HEIC pictures are not read; convert them to PNG or JPEG (photo.heic)",
            "1: pictures without a caption (2.png)",
            "1: not read beside another metadata file (metadata.csv)",
        ]
    );
    let source = ImageFolder::open(folder.path(), &SourceOptions::default()).unwrap();
    let unread = LeftOutReason::UnreadKind { extension: "heic".to_owned() };
    assert!(source.left_out().groups().any(|group| group.reason == unread && group.count == 1));
}

#[test]
fn folders_without_metadata_are_read_from_text_files_beside_folders_with_metadata() {
    let line = b"{\"file_name\": \"0.png\", \"text\": \"picture 0\"}\n";
    let files: [(&str, &[u8]); 5] = [
        ("cats/metadata.jsonl", line),
        ("10_girl/1.txt", b"picture 1"),
        ("10_girl/1.caption", b"no"),
        ("10_girl/2.caption", b"picture 2"),
        ("cats/sub/3.txt", b"no"),
    ];
    let folder =
        folder(&files, &["cats/0.png", "10_girl/1.png", "10_girl/2.png", "cats/sub/3.png", "10_girl/4.png"]);
    assert_rows(open_at(folder.path()), 3);
    assert_eq!(
        left_out(&folder),
        [
            "1: pictures without a caption (10_girl/4.png)",
            "1: pictures that the metadata do not name; their caption files are not read (cats/sub/3.png)",
            "1: not read beside another caption file of the same name (10_girl/1.caption)",
        ]
    );
    // Text files have no prompts.
    let options =
        SourceOptions { prompt_column: Some("text".to_owned()), no_captions: true, ..Default::default() };
    assert_eq!(open(folder.path(), &options).unwrap().len(), 1);
}

#[test]
fn other_files_beside_parquet_files_are_counted_by_reason() {
    let whole = fs::read(fixture("layouts/brotli.parquet")).unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("train.parquet", &whole),
        ("my_test.parquet", &whole),
        ("extra.parquet", &whole),
        ("metadata.csv", b"no"),
    ];
    assert_eq!(
        left_out(&folder(&files, &["0.png"])),
        [
            "1: in a held-out split, because the name `my_test.parquet` has the word \"test\" (my_test.parquet)",
            "1: outside of the training split (extra.parquet)",
            "2: not read beside parquet or Arrow files (0.png, metadata.csv)",
        ]
    );
    let nothing = folder(&[("metadata.jsonl", JSONL.as_bytes())], &["0.png", "1.png"]);
    assert!(left_out(&nothing).is_empty());
}

#[test]
fn a_folder_in_which_everything_is_left_out_gives_the_reason() {
    let text = refusal(open_at(folder(&[("test/0.txt", b"picture 0")], &["test/0.png"]).path()));
    assert!(text.contains("because the name `test` has the word \"test\" (test/0.png)"), "{text}");
    let text = refusal(open_at(folder(&[("0.heic", b"no")], &[]).path()));
    assert!(text.contains("HEIC pictures are not read; convert them to PNG or JPEG (0.heic)"), "{text}");
}
