//! Class labels as numbers, read from a column of their own. `datasets` wrote the parquet file (fixtures/make_columns.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::sync::Arc;

use caption_data::{CaptionSource, ClassLabels, Error, Result, RgbImage, SourceOptions, Subset, open};
use common::fixture;

fn kinds(column: &str) -> Result<Arc<dyn CaptionSource>> {
    let options = SourceOptions { label_column: Some(column.to_owned()), ..SourceOptions::default() };
    open(fixture("columns/kinds.parquet"), &options)
}

#[test]
fn classes_have_the_numbers_that_the_dataset_declares() {
    // Declared as cat, dog; a row without a label is left out.
    let source = kinds("label").unwrap();
    let dogs_first = Subset::new(source, vec![1, 0]).unwrap();
    let labels = ClassLabels::new(&dogs_first).unwrap();
    assert_eq!((labels.names(), labels.ids()), (&["cat".to_owned(), "dog".to_owned()][..], &[1, 0][..]));
    assert_eq!([labels.name(0), labels.name(1), labels.name(2)], ["dog", "cat", ""]);
}

#[test]
fn labels_of_metadata_are_numbered_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [("a.png", "wren"), ("b.png", "owl"), ("c.png", "wren")];
    for (picture, _) in rows {
        RgbImage::new(1, 1).save(folder.path().join(picture)).unwrap();
    }
    let line = |(picture, bird)| format!("{{\"file_name\": \"{picture}\", \"bird\": \"{bird}\"}}\n");
    fs::write(folder.path().join("metadata.jsonl"), rows.map(line).concat()).unwrap();
    let options = SourceOptions { label_column: Some("bird".to_owned()), ..SourceOptions::default() };
    let labels = ClassLabels::new(&open(folder.path(), &options).unwrap()).unwrap();
    assert_eq!((labels.names(), labels.ids()), (&["owl".to_owned(), "wren".to_owned()][..], &[1, 0, 1][..]));
}

#[test]
fn a_missing_column_and_rows_without_one_label_are_refused() {
    let error = kinds("species").err().unwrap().to_string();
    assert!(error.contains("species") && error.contains("class labels"), "{error}");
    let error = ClassLabels::new(&kinds("labels").unwrap()).unwrap_err();
    assert!(matches!(error, Error::LabelCount { row: 0, labels: 2, .. }), "{error}");
    let error = ClassLabels::new(&kinds("label").unwrap()).unwrap_err().to_string();
    assert!(error.contains("row 2"), "{error}");
}
