//! Tar files in the layout of WebDataset.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use caption_data::{CaptionSource, Error, RgbImage, SourceOptions, WebDataset, open};
use image::{ImageFormat, Rgb};

fn picture(row: usize) -> RgbImage {
    RgbImage::from_pixel(4 + row as u32, 3, Rgb([10 * row as u8, 20, 30]))
}

fn png(row: usize) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture(row).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes a tar file with these files.
fn tar(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap();
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// Two tar files with three samples, in a folder.
fn shards() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("a/{}", "long".repeat(40));
    let files = [
        ("0000.png", png(0)),
        ("0000.txt", text("picture 0\n\n another of 0 ")),
        ("0000.json", text(r#"{"width": 4}"#)),
        (&format!("{long}.txt"), text("picture 1")),
        (&format!("{long}.PNG"), png(1)),
    ];
    tar(&folder.path().join("00.tar"), &files);
    tar(
        &folder.path().join("01.tar"),
        &[("x/0002.txt", text("picture 2")), ("x/0002.seg.png", png(9)), ("x/0002.png", png(2))],
    );
    folder
}

fn assert_rows(source: &dyn CaptionSource) {
    assert_eq!(source.len(), 3);
    for row in [2, 0, 1] {
        assert_eq!(source.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(source.image(row).unwrap(), picture(row));
    }
    assert_eq!(source.captions(0).unwrap(), ["picture 0", "another of 0"]);
    assert!(matches!(source.image(3), Err(Error::RowOutOfRange { row: 3, len: 3, .. })));
}

fn refusal(path: &Path) -> String {
    WebDataset::open(&[path], &SourceOptions::default()).unwrap_err().to_string()
}

#[test]
fn tar_files_are_opened_by_folder_pattern_and_name() {
    let folder = shards();
    let at = |name: &str| folder.path().join(name);
    for path in [folder.path().to_owned(), at("{00..01}.tar"), at("*.tar"), at("0[01].tar")] {
        assert_rows(&*open(&path, &SourceOptions::default()).unwrap());
    }
    let one = open(at("01.tar"), &SourceOptions::default()).unwrap();
    assert_eq!((one.len(), one.caption(0).unwrap()), (1, "picture 2".to_owned()));
    let missing = open(at("{00..02}.tar"), &SourceOptions::default()).err().unwrap().to_string();
    assert!(missing.contains("02.tar"), "{missing}");
}

#[test]
fn the_index_is_kept_and_made_anew_for_a_changed_file() {
    let folder = shards();
    let (path, index) = (folder.path().join("01.tar"), folder.path().join("01.tar.index.json"));
    let open = || WebDataset::open(&[&path], &SourceOptions::default()).unwrap();
    let content = open().content().unwrap();
    let saved = fs::read(&index).unwrap();
    assert_eq!(open().content().unwrap(), content);
    assert_eq!(fs::read(&index).unwrap(), saved);
    // An index that cannot be read is made again.
    fs::write(&index, &saved[..saved.len() / 2]).unwrap();
    assert_eq!(open().content().unwrap(), content);
    assert_eq!(fs::read(&index).unwrap(), saved);
    tar(&path, &[("a.png", png(1)), ("a.txt", text("new")), ("b.png", png(2)), ("b.txt", text("b"))]);
    assert_eq!((open().len(), open().caption(0).unwrap()), (2, "new".to_owned()));
    assert_ne!(open().content().unwrap(), content);
}

#[cfg(unix)]
#[test]
fn the_index_of_a_folder_that_cannot_be_written_is_in_the_cache() {
    use std::os::unix::fs::symlink;
    let (folder, cache) = (shards(), tempfile::tempdir().unwrap());
    // A name that is taken by a folder cannot be written, by root neither.
    let path = folder.path().join("01.tar");
    fs::create_dir(folder.path().join("01.tar.index.json")).unwrap();
    fs::write(folder.path().join("01.tar.index.json/x"), "").unwrap();
    let options = SourceOptions { index_cache: Some(cache.path().join("deep")), ..SourceOptions::default() };
    let content = WebDataset::open(&[&path], &options).unwrap().content();
    let saved: Vec<PathBuf> =
        fs::read_dir(cache.path().join("deep")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(saved.len(), 1);
    assert_eq!(WebDataset::open(&[&path], &options).unwrap().content(), content);
    let linked = folder.path().join("linked.tar");
    symlink(&path, &linked).unwrap();
    assert_eq!(WebDataset::open(&[&linked], &options).unwrap().content(), content);
}

#[test]
fn captions_are_fields_of_json_or_classes_where_there_is_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let json = r#"{"caption": ["a cat", " "], "question": "what?", "answer": "cat"}"#;
    tar(&path, &[("1.jpg", png(1)), ("1.json", text(json)), ("1.cls", text("7\n"))]);
    let open = |caption: Option<&str>, prompt: Option<&str>| {
        let [caption_column, prompt_column] = [caption, prompt].map(|name| name.map(str::to_owned));
        WebDataset::open(
            &[&path],
            &SourceOptions { caption_column, prompt_column, ..SourceOptions::default() },
        )
    };
    assert_eq!(open(None, None).unwrap().captions(0).unwrap(), ["a cat"]);
    assert_eq!(open(Some("cls"), None).unwrap().captions(0).unwrap(), ["7"]);
    let asked = open(Some("answer"), Some("question")).unwrap();
    assert_eq!(
        (asked.caption(0).unwrap(), asked.prompt(0).unwrap()),
        ("cat".to_owned(), Some("what?".to_owned()))
    );
    let missing = open(Some("title"), None).unwrap_err().to_string();
    assert!(missing.contains("no column `title`") && missing.contains("caption, question"), "{missing}");

    tar(&path, &[("1.jpg", png(1)), ("1.cls", text("7"))]);
    assert_eq!(open(None, None).unwrap().captions(0).unwrap(), ["7"]);
}

#[test]
fn broken_tar_files_are_refused_with_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let refused = |files: &[(&str, Vec<u8>)]| {
        tar(&path, files);
        refusal(&path)
    };
    let words = refused(&[("1.png", png(1)), ("1.txt", text("a")), ("2.txt", text("b"))]);
    assert!(words.contains("a.tar: the sample `2` has no picture"), "{words}");
    let words = refused(&[("1.png", png(1)), ("1.jpg", png(1)), ("1.txt", text("a"))]);
    assert!(words.contains("the sample `1` has two pictures"), "{words}");
    let words = refused(&[("1.png", png(1)), ("2.png", png(2)), ("1.txt", text("a"))]);
    assert!(words.contains("files of the sample `1` are in two places"), "{words}");
    let words = refused(&[("readme", text("no sample"))]);
    assert!(words.contains("there is no sample"), "{words}");

    tar(&path, &[("1.png", png(1)), ("1.txt", text("a")), ("2.png", png(2)), ("2.txt", text("b"))]);
    let whole = fs::read(&path).unwrap();
    // Within a file, at the end of a file, and within a header.
    for length in [whole.len() - 1024 - 300, whole.len() - 1024, whole.len() - 2048, 700, 512] {
        fs::write(&path, &whole[..length]).unwrap();
        let words = refusal(&path);
        assert!(words.contains("cut short") || words.contains("damaged"), "{length}: {words}");
    }
    fs::write(&path, "no tar file at all".repeat(100)).unwrap();
    assert!(refusal(&path).contains("it is not a tar file, or it is damaged"), "{}", refusal(&path));
}

#[test]
fn a_sample_without_a_caption_or_with_a_broken_picture_is_an_error_of_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    tar(
        &path,
        &[
            ("1.png", png(1)),
            ("1.txt", text("a")),
            ("2.png", text("no")),
            ("3.png", png(3)),
            ("3.txt", text(" ")),
        ],
    );
    let source = WebDataset::open(&[&path], &SourceOptions::default()).unwrap();
    for (row, error) in [(1, source.caption(1).unwrap_err()), (2, source.caption(2).unwrap_err())] {
        assert!(
            matches!(&error, Error::Row { row: at, source, .. } if *at == row && matches!(**source, Error::BlankCaption)),
            "{error}"
        );
    }
    let error = source.image(1).unwrap_err().to_string();
    assert!(error.contains("row 1 of") && error.contains("(sample `2`)"), "{error}");
}
