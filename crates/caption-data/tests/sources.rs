//! Datasets on disk: parquet files written by `datasets` and pyarrow (fixtures/make_parquet.py), and folders
//! that the tests write.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use caption_data::{
    CaptionSource, Error, ImageFolder, ParquetSource, Result, RgbImage, SourceOptions, Subset, open,
};
use common::{fixture, message};
use image::Rgb;
use proptest::prelude::*;
use tempfile::TempDir;

/// The picture of row `i` in every fixture.
fn picture(i: usize) -> RgbImage {
    RgbImage::from_pixel(4 + i as u32, 3, Rgb([10 * i as u8, 20 * i as u8, 30 * i as u8]))
}

fn assert_rows(source: &dyn CaptionSource, len: usize) {
    assert_eq!(source.len(), len);
    for row in (0..len).rev().chain(0..len) {
        assert_eq!(source.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(source.image(row).unwrap(), picture(row), "row {row}");
    }
    let missing = source.image(len).unwrap_err();
    assert!(matches!(&missing, Error::RowOutOfRange { row, .. } if *row == len), "{missing}");
    assert!(matches!(source.caption(len), Err(Error::RowOutOfRange { .. })));
}

fn open_fixture(path: &str) -> Result<Arc<dyn CaptionSource>> {
    open(fixture("parquet").join(path), &SourceOptions::default())
}

fn refusal<T>(result: Result<T>) -> String {
    message(&result.err().unwrap())
}

// Parquet

#[test]
fn a_parquet_file_of_the_hub_has_its_rows_over_several_row_groups() {
    assert_rows(&*open_fixture("hub.parquet").unwrap(), 7);
}

#[test]
fn every_way_to_store_bytes_and_strings_reads_the_same() {
    // Plain binary in row groups of two; large binary and strings; the struct's fields in reverse order, with
    // dictionary-encoded captions. Compressed with zstd, gzip and lz4.
    for name in ["binary.parquet", "large.parquet", "path_first.parquet"] {
        assert_rows(&*open_fixture(name).unwrap(), 5);
    }
    let options = SourceOptions {
        image_column: Some("picture".into()),
        caption_column: Some("caption".into()),
        ..Default::default()
    };
    assert_rows(&ParquetSource::open(&[fixture("parquet/named.parquet")], &options).unwrap(), 5);
}

#[test]
fn a_hub_snapshot_opens_its_training_files_in_order() {
    let source = open_fixture("snapshot").unwrap();
    assert_rows(&*source, 7);
    assert!(source.name().ends_with("train-00000-of-00003.parquet and 2 more"), "{}", source.name());
    // Without a training split, all files are read.
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(fixture("parquet/snapshot/data").join(from), folder.path().join(to)).unwrap()
    };
    copy("train-00000-of-00003.parquet", "a.parquet");
    copy("train-00001-of-00003.parquet", "b.PARQUET");
    fs::write(folder.path().join(".hidden.parquet"), "no").unwrap();
    assert_rows(&*open(folder.path(), &SourceOptions::default()).unwrap(), 4);
}

#[test]
fn picture_paths_are_relative_to_the_parquet_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("parquet/paths_only.parquet"), folder.path().join("data.parquet")).unwrap();
    let source = open(folder.path().join("data.parquet"), &SourceOptions::default()).unwrap();
    let text = refusal(source.image(3));
    assert!(text.contains("row 3 of") && text.contains("3.png"), "{text}");
    (0..5).for_each(|i| picture(i).save(folder.path().join(format!("{i}.png"))).unwrap());
    assert_rows(&*source, 5);
}

#[test]
fn threads_read_a_parquet_file_together() {
    let source = open_fixture("binary.parquet").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let source = &source;
            scope.spawn(move || {
                (0..20).for_each(|i| {
                    assert_eq!(source.image((i * 3 + thread) % 5).unwrap(), picture((i * 3 + thread) % 5))
                })
            });
        }
    });
}

#[test]
fn missing_columns_and_columns_of_the_wrong_type_are_named() {
    let text = refusal(open_fixture("no_caption_column.parquet"));
    assert!(
        text.contains("none of its columns is known to hold the captions: image, label; name it")
            && text.contains("no_caption_column.parquet"),
        "{text}"
    );
    let options = SourceOptions { image_column: Some("img".into()), ..Default::default() };
    let text = refusal(ParquetSource::open(&[fixture("parquet/hub.parquet")], &options));
    assert!(text.contains("no column `img` for the pictures; there are: image, text"), "{text}");
    // It is clear what the text of a number is.
    let numbers = open_fixture("caption_is_a_number.parquet").unwrap();
    assert_eq!([0, 1].map(|row| numbers.caption(row).unwrap()), ["0", "1"]);
    let text = refusal(open_fixture("image_is_a_number.parquet"));
    assert!(
        text.contains("column `image` should hold binary, or a struct with a binary field `bytes`"),
        "{text}"
    );
    let options = SourceOptions { image_column: Some("text".into()), ..Default::default() };
    let text = refusal(ParquetSource::open(&[fixture("parquet/hub.parquet")], &options));
    assert!(text.contains("strings (paths or addresses)"), "{text}");
}

#[test]
fn datasets_without_a_usable_row_are_refused() {
    let text = refusal(open_fixture("blank_captions.parquet"));
    assert!(
        text.contains("blank_captions.parquet") && text.contains("`text` is empty in all 5 rows"),
        "{text}"
    );
    let text = refusal(open_fixture("no_rows.parquet"));
    assert!(text.contains("no_rows.parquet") && text.contains("no rows"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    assert!(
        refusal(open(empty.path(), &SourceOptions::default()))
            .contains("expected parquet files, metadata.jsonl")
    );
    assert!(
        refusal(ParquetSource::open(&[] as &[&Path], &SourceOptions::default()))
            .contains("no captioned pictures")
    );
    assert!(
        refusal(open(fixture("splits.json"), &SourceOptions::default()))
            .contains("splits.json: none of its columns is known to hold the pictures: ")
    );
    assert!(
        refusal(open("there/is/no/such/file", &SourceOptions::default())).contains("there/is/no/such/file")
    );
}

#[test]
fn a_bad_row_is_an_error_of_its_own_and_names_itself() {
    let source = open_fixture("some_bad_rows.parquet").unwrap();
    assert_eq!(source.image(0).unwrap(), picture(0));
    for (row, why) in [
        (1, "bytes are null"),
        (2, "the file is empty"),
        (3, r#"begins with "not a pi""#),
        (4, "cannot be decoded"),
    ] {
        let text = refusal(source.image(row));
        assert!(
            text.contains(&format!("row {row} of "))
                && text.contains("some_bad_rows.parquet cannot be used: ")
                && text.contains(why),
            "{text}"
        );
    }
    for row in [2, 3] {
        let text = refusal(source.caption(row));
        assert!(text.contains(&format!("row {row} of ")) && text.contains("caption is blank"), "{text}");
    }
    assert_eq!(source.caption(4).unwrap(), "cut short");
}

#[test]
fn a_truncated_parquet_file_is_refused() {
    let whole = fs::read(fixture("parquet/hub.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.parquet");
    for length in [0, 3, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let text = refusal(open(&path, &SourceOptions::default()));
        assert!(text.contains("cut.parquet: "), "{length}: {text}");
    }
    // Truncated after it was opened: reading the lost rows fails with the file's name.
    fs::write(&path, &whole).unwrap();
    let source = open(&path, &SourceOptions::default()).unwrap();
    fs::write(&path, &whole[..50]).unwrap();
    assert!(refusal(source.image(6)).contains("cut.parquet: "));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn damaged_parquet_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fs::read(fixture("parquet/binary.parquet")).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        fs::write(&path, &bytes).unwrap();
        if let Ok(source) = open(&path, &SourceOptions::default()) {
            (0..source.len().min(8)).for_each(|row| drop((source.caption(row), source.image(row))));
        }
    }
}

// Folders

/// A folder with the given text files, and the fixtures' pictures at the given paths.
fn folder(texts: &[(&str, &str)], pictures: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    texts.iter().for_each(|(name, text)| fs::write(at(name), text).unwrap());
    pictures.iter().enumerate().for_each(|(i, name)| picture(i).save(at(name)).unwrap());
    folder
}

fn open_folder(folder: &TempDir) -> Result<Arc<dyn CaptionSource>> {
    open(folder.path(), &SourceOptions::default())
}

#[test]
fn metadata_jsonl_gives_rows_in_its_order() {
    let lines = concat!(
        r#"{"file_name": "z.png", "text": "picture 0", "split": 3}"#,
        "\n\n",
        r#"{"text": "picture 1", "file_name": "sub/a.bmp"}"#,
        "\r\n",
        r#"{"file_name": "./m.PNG", "text": "picture 2"}"#,
    );
    let folder = folder(
        &[("metadata.jsonl", lines), ("other.txt", "no")],
        &["z.png", "sub/a.bmp", "m.PNG", "not_named.png"],
    );
    assert_rows(&*open_folder(&folder).unwrap(), 3);
}

#[test]
fn metadata_csv_gives_rows_in_its_order() {
    let table = "\u{feff}file_name,note,text\nz.png,\"a, b\",picture 0\n\"a.png\",,\"picture 1\"\n";
    let folder = folder(&[("metadata.csv", table)], &["z.png", "a.png"]);
    assert_rows(&*open_folder(&folder).unwrap(), 2);
}

#[test]
fn text_files_of_the_same_name_are_captions_and_rows_are_sorted() {
    let texts = [
        ("a/2.txt", "picture 0\n"),
        ("a/10.txt", " picture 1"),
        ("b.txt", "picture 2"),
        ("readme.txt", "no"),
        ("data.json", "{}"),
    ];
    // In the order of paths, "10" comes before "2".
    let folder = folder(&texts, &["a/2.png", "a/10.png", "b.bmp"]);
    let source = open_folder(&folder).unwrap();
    assert_eq!(
        (0..3).map(|row| source.caption(row).unwrap()).collect::<Vec<_>>(),
        ["picture 1", "picture 0", "picture 2"]
    );
    assert_eq!(source.image(0).unwrap(), picture(1));
}

#[test]
fn nested_folders_have_metadata_of_their_own_and_another_caption_column_can_be_named() {
    let one = (r"one/metadata.jsonl", r#"{"file_name": "p.png", "label": "picture 0"}"#);
    let two = ("two/metadata.csv", "file_name,label\np.png,picture 1\n");
    let folder = folder(&[one, two], &["one/p.png", "two/p.png"]);
    let options = SourceOptions { caption_column: Some("label".into()), ..Default::default() };
    assert_rows(&ImageFolder::open(folder.path(), &options).unwrap(), 2);
    let text = refusal(open_folder(&folder));
    assert!(
        text.contains("metadata.jsonl: none of its columns is known to hold the captions: file_name, label"),
        "{text}"
    );
}

#[test]
fn unusable_metadata_are_refused_with_the_line() {
    let cases = [
        (r#"{"file_name": "p.png", "text": "a"}"#.to_owned() + "\n{", "metadata.jsonl, line 2: "),
        (
            r#"{"file_name": "../p.png", "text": "a"}"#.to_owned(),
            "line 1: ../p.png does not lie inside the folder",
        ),
        (
            r#"{"file_name": "p.png", "text": {"raw": "a"}}"#.to_owned(),
            "line 1: `text` must hold text, numbers, class labels or lists of these, it holds a record of raw",
        ),
        (r#"{"text": "a"}"#.to_owned(), "is known to hold the pictures: text; name it"),
        (
            r#"{"file_name": "p.png", "text": "a"}"#.to_owned() + "\n" + r#"{"text": "a"}"#,
            "metadata.jsonl, line 2: no `file_name`; there are: text",
        ),
        (r#"{"file_name": "p.png", "text": null}"#.to_owned(), "`text` is empty in all 1 rows"),
        ("\n".to_owned(), "no captioned pictures found"),
    ];
    for (lines, message) in cases {
        let text = refusal(open_folder(&folder(&[("metadata.jsonl", &lines)], &["p.png"])));
        assert!(text.contains(message), "{text}");
    }
    let text =
        refusal(open_folder(&folder(&[("metadata.csv", "file_name,text\np.png,a\np.png\n")], &["p.png"])));
    assert!(text.contains("metadata.csv, line 3: "), "{text}");
}

#[test]
fn pictures_without_a_caption_file_are_refused() {
    let source = open_folder(&folder(&[("a.txt", "a")], &["a.png", "b.png"])).unwrap();
    let text = refusal(source.caption(1));
    assert!(
        text.contains("b.png") && text.contains("it has no caption: ") && text.contains("b.txt"),
        "{text}"
    );
    let text = refusal(open_folder(&folder(&[], &["a.png", "b.png"])));
    assert!(text.contains("pictures beside .txt or .caption files"), "{text}");
}

#[test]
fn captions_of_unsupported_pictures_and_captions_without_a_picture_are_left_out() {
    for other in ["b.heic", "b.avif", "b.psd"] {
        let texts = [("a.txt", "picture 0"), ("b.txt", "b"), ("b.json", "{}"), (other, "")];
        let pictures = folder(&texts, &["a.png"]);
        let source = open_folder(&pictures).unwrap();
        assert_rows(&*source, 1);
        let left_out: Vec<String> = source.left_out().groups().map(ToString::to_string).collect();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(left_out[0].contains("pictures are not read") && left_out[0].contains(other), "{left_out:?}");
        // If it is the only one, there are no rows.
        let text = refusal(open_folder(&folder(&[("b.txt", "b"), (other, "")], &[])));
        assert!(text.contains("no captioned pictures found") && text.contains(other), "{text}");
    }
    let pdf = folder(&[("a.txt", "picture 0"), ("b.txt", "b"), ("b.pdf", "")], &["a.png"]);
    let source = open_folder(&pdf).unwrap();
    assert_rows(&*source, 1);
    let left_out: Vec<String> = source.left_out().groups().map(ToString::to_string).collect();
    assert_eq!(left_out, ["1: captions of files whose names are not those of pictures (b.txt beside b.pdf)"]);
    let sidecar = [("a.txt", "picture 0"), ("a.json", "{}"), ("orphan.txt", "b")];
    assert_rows(&*open_folder(&folder(&sidecar, &["a.png"])).unwrap(), 1);
}

#[test]
fn captions_have_no_byte_order_mark() {
    let folder = folder(&[("a.txt", "\u{feff}picture 0\r\n")], &["a.png"]);
    assert_rows(&*open_folder(&folder).unwrap(), 1);
}

#[test]
fn a_broken_picture_of_a_folder_is_an_error_that_names_its_file() {
    let folder = folder(&[("a.txt", "a"), ("b.txt", " "), ("b.png", "no picture")], &["a.png"]);
    let source = open_folder(&folder).unwrap();
    assert_eq!(source.image(0).unwrap(), picture(0));
    let text = refusal(source.image(1));
    assert!(text.contains("row 1 of ") && text.contains("b.png cannot be used: not a PNG"), "{text}");
    let text = refusal(source.caption(1));
    assert!(
        text.contains("row 1 of ") && text.contains("b.png cannot be used: the caption is blank"),
        "{text}"
    );
    fs::remove_file(folder.path().join("a.png")).unwrap();
    assert!(refusal(source.image(0)).contains("row 0 of "));
}

// Fingerprints

#[test]
fn a_fingerprint_depends_on_a_pictures_content_and_not_on_its_path() {
    let source = open_fixture("hub.parquet").unwrap();
    let fingerprints: Vec<u128> = (0..7).map(|row| source.fingerprint(row).unwrap()).collect();
    for (row, fingerprint) in fingerprints.iter().enumerate() {
        assert!(
            !fingerprints[..row].contains(fingerprint),
            "row {row} has the fingerprint of another picture"
        );
    }
    let subset = Subset::new(Arc::clone(&source), vec![5, 2]).unwrap();
    assert_eq!([0, 1].map(|row| subset.fingerprint(row).unwrap()), [fingerprints[5], fingerprints[2]]);

    let folder = folder(&[("a.txt", "a"), ("b.txt", "b"), ("c.txt", "c")], &["a.png", "b.png", "c.png"]);
    let bytes = fs::read(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("c.png"), &bytes).unwrap();
    let read = || {
        let source = open_folder(&folder).unwrap();
        [0, 1, 2].map(|row| source.fingerprint(row).unwrap())
    };
    let before = read();
    assert!(before[0] == before[2] && before[0] != before[1]);
    // One bit changed, whether or not the picture can still be decoded.
    let mut changed = bytes;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(folder.path().join("a.png"), &changed).unwrap();
    let after = read();
    assert!(after[0] != before[0] && after[1..] == before[1..]);

    let source = open_folder(&folder).unwrap();
    fs::remove_file(folder.path().join("b.png")).unwrap();
    assert!(refusal(source.fingerprint(1)).contains("row 1 of "));
    assert!(matches!(source.fingerprint(3), Err(Error::RowOutOfRange { row: 3, .. })));
}

/// A source of pictures that are not read from files.
struct Painted(Vec<RgbImage>);

impl CaptionSource for Painted {
    fn name(&self) -> String {
        "painted".to_owned()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn caption(&self, _row: usize) -> Result<String> {
        Ok("a colour".to_owned())
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        Ok(self.0[row].clone())
    }
}

#[test]
fn fingerprints_of_generated_pictures_hash_the_pixels() {
    let of = |width, height, level| RgbImage::from_pixel(width, height, Rgb([level; 3]));
    let source = Painted(vec![of(4, 3, 7), of(4, 3, 7), of(4, 3, 8), of(3, 4, 7), of(12, 1, 7)]);
    let fingerprints: Vec<u128> = (0..5).map(|row| source.fingerprint(row).unwrap()).collect();
    assert_eq!(fingerprints[0], fingerprints[1]);
    for (i, other) in fingerprints.iter().enumerate().skip(2) {
        assert!(!fingerprints[..i].contains(other), "row {i}");
    }
}

// Subsets

#[test]
fn a_subset_renumbers_rows_but_its_errors_use_the_original_numbers() {
    let source = open_fixture("some_bad_rows.parquet").unwrap();
    let subset = Subset::new(Arc::clone(&source), vec![4, 3, 0]).unwrap();
    assert_eq!((subset.len(), subset.caption(0).unwrap()), (3, "cut short".to_owned()));
    assert_eq!(subset.image(2).unwrap(), picture(0));
    assert!(refusal(subset.image(1)).contains("row 3 of "));
    assert!(subset.name().ends_with("(3 of 5 rows)"), "{}", subset.name());
    assert!(matches!(subset.image(3), Err(Error::RowOutOfRange { row: 3, len: 3, .. })));
    assert!(matches!(
        Subset::new(Arc::clone(&source), vec![0, 5]),
        Err(Error::RowOutOfRange { row: 5, len: 5, .. })
    ));
    assert_eq!(Subset::first(Arc::clone(&source), 2).len(), 2);
    let all = Subset::first(Arc::clone(&source), 700);
    assert_eq!((all.len(), all.name()), (5, source.name()));
}
