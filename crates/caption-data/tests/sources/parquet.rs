//! Parquet files.

use super::*;

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
