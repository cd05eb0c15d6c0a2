//! Messages about files and folders that are no dataset, or a damaged one.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;

use caption_data::{CaptionSource as _, SourceOptions, open};
use common::folders::folder;
use common::{fixture, message};

fn refusal(path: impl AsRef<Path>) -> String {
    message(&open(path, &SourceOptions::default()).err().unwrap())
}

/// The message about one metadata file in a folder with a picture.
fn of_metadata(name: &str, text: &str) -> String {
    let folder = folder(&[(name, text.as_bytes())], &["0.png"]);
    refusal(folder.path()).rsplit_once(&format!("{name}, ")).unwrap().1.to_owned()
}

#[test]
fn broken_json_is_told_with_one_line_number() {
    let good = "{\"file_name\": \"0.png\", \"text\": \"a\"}\n";
    let text = of_metadata("metadata.jsonl", &format!("{good}\n{{\"file_name\": 0.png}}\n"));
    assert!(text.starts_with("line 3: invalid number (column 1") && !text.contains("line 1"), "{text}");
    let text = of_metadata("metadata.jsonl", &format!("{good}{{\n  \"file_name\": \"0.png\"\n}}\n"));
    assert!(text.starts_with("line 2: EOF while parsing an object (column "), "{text}");
    assert!(text.ends_with("; each line must hold one whole object"), "{text}");
    let text = of_metadata("metadata.jsonl", "[{\"file_name\": \"0.png\"},\n{]");
    assert!(text.starts_with("line 2: key must be a string (column "), "{text}");
}

#[test]
fn commas_in_a_csv_caption_are_told_with_advice() {
    let text = of_metadata("metadata.csv", "file_name,text\n0.png,a bird\n0.png,a bird, red\n");
    assert_eq!(
        text,
        "line 3: it has 3 fields, and the first line has 2; put a caption with commas in it between double quotes"
    );
    let text = of_metadata("metadata.csv", "file_name,text\n0.png\n");
    assert_eq!(text, "line 2: it has 1 fields, and the first line has 2");
}

#[test]
fn files_that_are_called_parquet_are_told_to_be_what_they_are() {
    let whole = fs::read(fixture("parquet/hub.parquet")).unwrap();
    for name in ["train.parquet", "metadata.parquet"] {
        for (content, words) in [
            (&b""[..], "the file is empty; download it again"),
            (&whole[..whole.len() / 2], "the parquet file is cut short or damaged; download it again ("),
            (b"\n<!doctype html><html><body>Log in</body></html>", "it is a web page and no parquet file"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "it is a web page and no"),
            (b"PK\x03\x04 and so on, and on, and on", "it begins with \"PK\\x03\\x04 and\""),
        ] {
            let text = refusal(folder(&[(name, content)], &["0.png"]).path());
            assert!(text.contains(&format!("{name}: ")) && text.contains(words), "{text}");
        }
    }
}

#[test]
fn tables_with_only_the_paths_of_pictures_are_told_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.parquet");
    fs::copy(fixture("parquet/paths_only.parquet"), &path).unwrap();
    let text = message(&open(&path, &SourceOptions::default()).unwrap().image(3).unwrap_err());
    assert!(text.contains("row 3 of ") && text.contains("metadata.jsonl"), "{text}");
    assert!(text.contains("the row holds only the path of its picture, and "), "{text}");
    assert!(text.contains("3.png cannot be read; put the pictures there"), "{text}");

    // A column of strings, with the usual name and without.
    for column in ["image", "image_path"] {
        let path = folder.path().join(format!("{column}.parquet"));
        write_strings(&path, column);
        let text = refusal(&path);
        assert!(text.contains(&format!("column `{column}` should hold the bytes of pictures")), "{text}");
        assert!(text.contains("strings (paths or addresses)") && text.contains("metadata.jsonl"), "{text}");
    }
}

/// A parquet file with two columns of strings: the paths of pictures, and captions.
fn write_strings(path: &Path, paths: &str) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    let schema = format!("message schema {{ required binary {paths} (UTF8); required binary text (UTF8); }}");
    let schema = parquet::schema::parser::parse_message_type(&schema).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut file = SerializedFileWriter::new(file, schema.into(), Default::default()).unwrap();
    let mut group = file.next_row_group().unwrap();
    for value in ["0.png", "a bird"] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[ByteArray::from(value)], None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
}

#[test]
fn archives_are_to_be_unpacked() {
    let archives = folder(&[("train.zip", b"PK"), ("more.tar.gz", b""), ("readme.md", b"")], &[]);
    for name in ["train.zip", "more.tar.gz"] {
        let text = refusal(archives.path().join(name));
        let advice = "it is an archive: unpack it, and name the folder that it holds";
        assert!(text.contains(name) && text.ends_with(advice), "{text}");
    }
    let text = refusal(archives.path());
    assert!(text.contains("archives are not read: unpack more.tar.gz, train.zip; expected"), "{text}");
}

#[test]
fn folders_of_classes_are_told_to_have_no_captions() {
    let classes = folder(&[], &["cats/1.png", "dogs/2.png", "dogs/3.png"]);
    let text = refusal(classes.path());
    for words in [
        "pictures without captions: 3 in folders named cats, dogs",
        "a folder's name, such as a class, is not read as a caption",
        "expected parquet files, metadata.jsonl, metadata.csv, metadata.parquet, or pictures beside .txt or .caption files",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let text = refusal(folder(&[], &["1.png", "2.png", "3.png", "4.png"]).path());
    assert!(text.contains("pictures without captions: 4 (1.png, 2.png, 3.png, ...); expected"), "{text}");
}
