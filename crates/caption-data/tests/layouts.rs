//! Layouts that `datasets` reads (fixtures/make_layouts.py), and text files of editors and
//! spreadsheets.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;

use common::folders::{assert_rows, folder, left_out, open_at, picture, refusal};
use common::{fixture, message};

const JSONL: &str = "{\"file_name\": \"0.png\", \"text\": \"picture 0\"}\n{\"file_name\": \"1.png\", \"text\": \"picture 1\"}\n";

// Metadata

#[test]
fn metadata_parquet_names_pictures_of_its_folder() {
    let folder = folder(&[], &["0.png", "1.png", "2.png"]);
    fs::copy(fixture("layouts/metadata.parquet"), folder.path().join("metadata.parquet")).unwrap();
    assert_rows(open_at(folder.path()), 3);
    assert_rows(open_at(folder.path().join("metadata.parquet")), 3);
    fs::remove_file(folder.path().join("1.png")).unwrap();
    let text = message(&open_at(folder.path()).unwrap().image(1).unwrap_err());
    assert!(
        text.starts_with("row 1 of ") && text.contains("1.png cannot be used: its file cannot be read"),
        "{text}"
    );
}

#[test]
fn an_array_of_objects_is_metadata_under_both_names() {
    let array = format!("[{}]", JSONL.trim().replace('\n', ",\n"));
    for name in ["metadata.jsonl", "metadata.json"] {
        assert_rows(open_at(folder(&[(name, array.as_bytes())], &["0.png", "1.png"]).path()), 2);
    }
    let broken = array.replace("1.png", "../1.png");
    let text = refusal(open_at(folder(&[("metadata.jsonl", broken.as_bytes())], &["0.png"]).path()));
    assert!(
        text.contains("metadata.jsonl, row 1 (rows count from 0): ../1.png does not lie inside"),
        "{text}"
    );
    let text = refusal(open_at(
        folder(&[("metadata.jsonl", b"[{\"file_name\": \"0.png\"},\n{]")], &["0.png"]).path(),
    ));
    assert!(text.contains("metadata.jsonl, line 2: "), "{text}");
    // Other programs use the name metadata.json for files that are no list of pictures.
    let other = folder(&[("metadata.json", b"{\"0.png\": {}}"), ("0.txt", b"picture 0")], &["0.png"]);
    assert_rows(open_at(other.path()), 1);
}

#[test]
fn nan_and_infinity_in_unused_fields_are_ignored() {
    let lines =
        "{\"file_name\": \"0.png\", \"text\": \"picture 0\", \"score\": NaN, \"x\": [-Infinity, Infinity]}\n";
    assert_rows(open_at(folder(&[("metadata.jsonl", lines.as_bytes())], &["0.png"]).path()), 1);
}

#[test]
fn backslashes_separate_folders() {
    for name in ["sub\\\\0.png", ".\\\\sub\\\\0.png", "sub/x/../0.png", "sub\\\\x\\\\..\\\\0.png"] {
        let line = format!("{{\"file_name\": \"{name}\", \"text\": \"picture 0\"}}");
        assert_rows(open_at(folder(&[("metadata.jsonl", line.as_bytes())], &["sub/0.png"]).path()), 1);
    }
    let csv = b"file_name,text\nsub\\0.png,picture 0\n";
    assert_rows(open_at(folder(&[("metadata.csv", csv)], &["sub/0.png"]).path()), 1);
    for name in ["..\\\\0.png", "sub\\\\..\\\\..\\\\0.png", "/0.png", "../0.png"] {
        let line = format!("{{\"file_name\": \"{name}\", \"text\": \"picture 0\"}}");
        let text = refusal(open_at(folder(&[("metadata.jsonl", line.as_bytes())], &["sub/0.png"]).path()));
        assert!(text.contains("line 1: ") && text.contains("does not lie inside the folder"), "{text}");
    }
}

#[test]
fn a_backslash_may_be_part_of_a_name() {
    let line = "{\"file_name\": \"a\\\\0.png\", \"text\": \"picture 0\"}";
    assert_rows(open_at(folder(&[("metadata.jsonl", line.as_bytes())], &["a\\0.png"]).path()), 1);
}

/// The folder is given by a relative path, the picture by an absolute one, with and without links in them.
#[test]
fn absolute_file_names_inside_the_folder_are_read() {
    let folder = folder(&[], &["sub/0.png"]);
    let real = folder.path().canonicalize().unwrap();
    let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "../").collect::<String>();
    let relative = Path::new(&up).join(real.strip_prefix("/").unwrap());
    assert!(relative.is_relative() && relative.exists());
    let write = |picture: &Path| {
        let line = format!("{{\"file_name\": {:?}, \"text\": \"picture 0\"}}", picture.to_str().unwrap());
        fs::write(real.join("metadata.jsonl"), line).unwrap();
    };
    let (inside, linked) = (real.join("sub/0.png"), real.with_extension("link"));
    write(&inside);
    assert_rows(open_at(&relative), 1);
    assert_rows(open_at(&real), 1);
    assert_eq!(left_out(&folder), [""; 0]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&real, &linked).unwrap();
        assert_rows(open_at(&linked), 1);
        write(&linked.join("sub/0.png"));
        assert_rows(open_at(&relative), 1);
        fs::remove_file(&linked).unwrap();
    }
    // A picture that is missing is an error of its row, and one outside is an error of the metadata.
    write(&real.join("sub/gone.png"));
    assert!(refusal_of_row(&relative).contains("gone.png"));
    for outside in [real.join("sub/../../0.png"), "/0.png".into()] {
        write(&outside);
        let text = refusal(open_at(&relative));
        assert!(text.contains("line 1: ") && text.contains("does not lie inside the folder"), "{text}");
    }
}

fn refusal_of_row(path: &Path) -> String {
    message(&open_at(path).unwrap().image(0).unwrap_err())
}

#[test]
fn the_path_of_a_metadata_file_opens_its_folder() {
    let folder = folder(
        &[("metadata.jsonl", JSONL.as_bytes()), ("captions.csv", b"file_name,text\n0.png,picture 0\n")],
        &["0.png", "1.png", "2.png"],
    );
    assert_rows(open_at(folder.path().join("metadata.jsonl")), 2);
    assert_rows(open_at(folder.path().join("captions.csv")), 1);
    let source = open_at(folder.path().join("metadata.jsonl")).unwrap();
    assert!(source.name().ends_with("metadata.jsonl"), "{}", source.name());
    assert_eq!(source.left_out().count(), 1); // 2.png
}

#[test]
fn csv_separators_other_than_commas_are_refused_by_name() {
    for (table, message) in [
        ("file_name;text\n0.png;picture 0\n", "line 1: its columns are separated by semicolons"),
        ("\"file_name\";\"text\"\n0.png;picture 0, red\n", "separated by semicolons"),
        ("text\tfile_name\npicture 0\t0.png\n", "separated by tabs"),
    ] {
        let text = refusal(open_at(folder(&[("metadata.csv", table.as_bytes())], &["0.png"]).path()));
        assert!(text.contains("metadata.csv, ") && text.contains(message), "{text}");
    }
    // A semicolon elsewhere is an ordinary character, and spaces around names are ignored.
    let csv = "file_name, text, a;b\n0.png,picture 0,1;2\n";
    assert_rows(open_at(folder(&[("metadata.csv", csv.as_bytes())], &["0.png"]).path()), 1);
}

// Encodings

/// The text in UTF-16 with a byte-order mark.
fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(bytes).collect()
}

#[test]
fn utf16_with_a_byte_order_mark_is_read_everywhere() {
    for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let caption = utf16("picture 0\r\n", bytes);
        assert_rows(open_at(folder(&[("0.txt", &caption)], &["0.png"]).path()), 1);
        let lines = utf16(JSONL, bytes);
        assert_rows(open_at(folder(&[("metadata.jsonl", &lines)], &["0.png", "1.png"]).path()), 2);
        let table = utf16("file_name,text\n0.png,picture 0\n", bytes);
        assert_rows(open_at(folder(&[("metadata.csv", &table)], &["0.png"]).path()), 1);
        let emoji = utf16("a 🐉 dragon", bytes);
        let source = open_at(folder(&[("0.txt", &emoji)], &["0.png"]).path()).unwrap();
        assert_eq!(source.caption(0).unwrap(), "a 🐉 dragon");
    }
}

#[test]
fn other_encodings_are_refused_with_the_file_and_the_line() {
    let without_mark: Vec<u8> = "picture 0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut cut = utf16("a\nb", u16::to_le_bytes);
    cut.pop();
    let lone = [0xFF, 0xFE, 0x0A, 0x00, 0x00, 0xD8];
    for (content, message) in [
        (b"a\ncaf\xe9".as_slice(), "0.txt, line 2: not UTF-8 text: byte 0xe9"),
        (
            &without_mark,
            "0.txt, line 1: not UTF-8 text: it has zero bytes, like UTF-16 without a byte-order mark",
        ),
        (&cut, "0.txt, line 2: not UTF-8 text: its byte-order mark says UTF-16"),
        (&lone, "0.txt, line 2: not UTF-8 text: its byte-order mark says UTF-16"),
        (b"\xFF\xFE\0\0a\0\0\0", "0.txt, line 1: not UTF-8 text: it is UTF-32"),
    ] {
        let text = refusal(open_at(folder(&[("0.txt", content)], &["0.png"]).path()));
        assert!(text.contains(message) && text.ends_with("save the file as UTF-8"), "{text}");
    }
}

// Text files

#[test]
fn caption_files_can_have_several_extensions() {
    for name in ["0.txt", "0.TXT", "0.caption", "0.Caption"] {
        assert_rows(open_at(folder(&[(name, b"picture 0\n")], &["0.png"]).path()), 1);
    }
    let both = folder(
        &[("0.caption", b"no"), ("0.txt", b"picture 0"), ("1.caption", b"picture 1")],
        &["0.png", "1.PNG"],
    );
    assert_rows(open_at(both.path()), 2);
    assert_eq!(left_out(&both), ["1: not read beside another caption file of the same name (0.caption)"]);
    let source = open_at(folder(&[("0.caption", b"a")], &["0.png", "1.png"]).path()).unwrap();
    let text = message(&source.caption(1).unwrap_err());
    assert!(
        text.contains("1.png cannot be used: it has no caption: ") && text.ends_with("1.txt does not exist"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn file_names_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder(&[], &[]);
    for (i, stem) in [b"caf\xe8".as_slice(), b"caf\xe9"].into_iter().enumerate() {
        let path = folder.path().join(OsStr::from_bytes(stem));
        picture(i).save_with_format(path.with_extension("png"), image::ImageFormat::Png).unwrap();
        fs::write(path.with_extension("txt"), format!("picture {i}")).unwrap();
    }
    assert_rows(open_at(folder.path()), 2);
}

// Git LFS

#[test]
fn git_lfs_pointers_are_reported_everywhere() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".as_slice();
    for name in ["metadata.jsonl", "metadata.csv", "metadata.parquet", "0.txt", "train.parquet"] {
        let text = refusal(open_at(folder(&[(name, pointer)], &["0.png"]).path()));
        assert!(
            text.contains(name) && text.contains("Git LFS pointer") && text.contains("`git lfs pull`"),
            "{text}"
        );
    }
    let folder = folder(&[("metadata.jsonl", JSONL.as_bytes()), ("1.png", pointer)], &["0.png"]);
    let source = open_at(folder.path()).unwrap();
    let text = message(&source.image(1).unwrap_err());
    assert!(
        text.contains("1.png (line 2 of its metadata; rows count from 0) cannot be used: ")
            && text.contains("`git lfs pull`"),
        "{text}"
    );
}

// Parquet

#[test]
fn brotli_is_unpacked() {
    assert_rows(open_at(fixture("layouts/brotli.parquet")), 3);
}

#[test]
fn parts_may_be_numbered_from_1() {
    let whole = fs::read(fixture("layouts/brotli.parquet")).unwrap();
    let files = |names: &[&str]| {
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, whole.as_slice())).collect();
        open_at(folder(&files, &[]).path()).map(|source| source.len()).map_err(|error| error.to_string())
    };
    assert_eq!(files(&["0001.parquet", "0002.parquet"]), Ok(6));
    assert_eq!(files(&["train/0001.parquet", "train/0002.parquet", "test/0001.parquet"]), Ok(6));
    assert_eq!(files(&["train-00001-of-00002.parquet", "train-00002-of-00002.parquet"]), Ok(6));
    for gap in [["0001.parquet", "0003.parquet"], ["0002.parquet", "0003.parquet"]] {
        let text = files(&gap).unwrap_err();
        assert!(text.contains("of the 4 parts of `./` only 2 are there"), "{text}");
    }
    let text = files(&["train-00001-of-00003.parquet", "train-00003-of-00003.parquet"]).unwrap_err();
    assert!(text.contains("of the 3 parts of `train` only 2 are there"), "{text}");
}

#[cfg(not(feature = "arrow"))]
#[test]
fn arrow_files_without_the_feature_are_an_error_with_advice() {
    let text = refusal(open_at(fixture("layouts/saved")));
    assert!(text.contains("data-00000-of-00002.arrow is an Arrow file"), "{text}");
    assert!(text.contains("--features arrow") && text.contains("to_parquet"), "{text}");
}
