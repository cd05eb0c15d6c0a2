//! Which columns are read, and how their values become texts. `datasets` wrote the parquet files
//! (fixtures/make_columns.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use caption_data::{CaptionSource, ColumnRole, Error, Result, RgbImage, SourceOptions, open};
use common::{fixture, message};
use tempfile::TempDir;

fn options(image: Option<&str>, caption: Option<&str>, prompt: Option<&str>) -> SourceOptions {
    let [image_column, caption_column, prompt_column] =
        [image, caption, prompt].map(|name| name.map(str::to_owned));
    SourceOptions { image_column, caption_column, prompt_column, ..SourceOptions::default() }
}

fn kinds(caption: Option<&str>, prompt: Option<&str>) -> Result<Arc<dyn CaptionSource>> {
    open(fixture("columns/kinds.parquet"), &options(None, caption, prompt))
}

fn refusal<T>(result: Result<T>) -> String {
    message(&result.err().unwrap())
}

/// A folder with metadata and pictures of one pixel.
fn folder(name: &str, metadata: &str, pictures: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), metadata).unwrap();
    for picture in pictures {
        RgbImage::new(1, 1).save(folder.path().join(picture)).unwrap();
    }
    folder
}

fn open_folder(folder: &Path) -> Result<Arc<dyn CaptionSource>> {
    open(folder, &SourceOptions::default())
}

#[test]
fn the_only_picture_column_and_the_only_usual_caption_column_are_found() {
    let source = kinds(None, None).unwrap();
    assert_eq!(source.image(1).unwrap().dimensions(), (5, 3));
    assert_eq!(source.captions(0).unwrap(), ["a cat", "the cat"]);
    assert_eq!(source.caption(0).unwrap(), "a cat");
    assert_eq!(source.captions(1).unwrap(), ["a dog"]);
    assert!(refusal(source.captions(2)).contains("row 2"));
    assert!(refusal(source.caption(2)).contains("blank"));
    assert_eq!(source.prompt(0).unwrap(), None);
}

#[test]
fn numbers_class_labels_and_lists_are_captions() {
    let captions = |column: &str| {
        let source = kinds(Some(column), None).unwrap();
        (0..3).map(|row| source.captions(row).ok()).collect::<Vec<_>>()
    };
    let some = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(captions("label"), [some(&["cat"]), some(&["dog"]), None]);
    assert_eq!(captions("labels"), [some(&["cat", "dog"]), some(&["dog"]), None]);
    assert_eq!(captions("count"), [some(&["7"]), None, some(&["30"])]);
    assert_eq!(captions("score"), [some(&["0.5"]), some(&["2.0"]), some(&["-1.0"])]);
}

#[test]
fn columns_without_text_are_refused_with_their_type() {
    for (column, words) in [("flag", "a truth value (true) in row 0"), ("record", "a record of id, raw")] {
        let text = refusal(kinds(Some(column), None));
        assert!(text.contains(&format!("column `{column}` should hold text, numbers")), "{text}");
        assert!(text.contains(words) && text.contains("kinds.parquet"), "{text}");
    }
    assert!(refusal(kinds(Some("nothing"), None)).contains("no column `nothing` for the captions"));
    assert!(refusal(kinds(None, Some("nothing"))).contains("no column `nothing` for the prompts"));
}

#[test]
fn with_a_prompt_column_the_answer_column_holds_captions() {
    // With a prompt column, `answer` is a candidate too, so the caption column must be named.
    let error = kinds(None, Some("question")).err().unwrap();
    let Error::AmbiguousColumns { role: ColumnRole::Caption, candidates, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(candidates, &["captions", "answer"]);
    let source = kinds(Some("answer"), Some("question")).unwrap();
    assert_eq!(source.prompt(0).unwrap().as_deref(), Some("what is it?"));
    assert_eq!(source.captions(1).unwrap(), ["yes"]);
    let text = refusal(source.prompt(2));
    assert!(text.contains("row 2") && text.contains("the prompt is blank"), "{text}");
}

#[test]
fn ambiguous_columns_are_listed() {
    let path = fixture("columns/two_of_each.parquet");
    let text = refusal(open(&path, &SourceOptions::default()));
    assert!(text.contains("more than one column could hold the pictures: photo, mask; name one"), "{text}");
    let text = refusal(open(&path, &options(Some("photo"), None, None)));
    assert!(text.contains("could hold the captions: Caption, description"), "{text}");
    let source = open(&path, &options(Some("mask"), Some("Caption"), None)).unwrap();
    assert_eq!(source.caption(2).unwrap(), "c");
}

#[test]
fn columns_of_metadata_are_chosen_by_the_same_rules() {
    let lines = "file_name,description\na.png,a bird\n";
    let source = open_folder(folder("metadata.csv", lines, &["a.png"]).path()).unwrap();
    assert_eq!(source.caption(0).unwrap(), "a bird");
    let lines = "image,prompt\na.png,a bird\n";
    let source = open_folder(folder("metadata.csv", lines, &["a.png"]).path()).unwrap();
    assert_eq!(source.caption(0).unwrap(), "a bird");
    let two =
        folder("metadata.jsonl", r#"{"file_name": "a.png", "caption": "a", "prompt": "b"}"#, &["a.png"]);
    assert!(refusal(open_folder(two.path())).contains("captions: caption, prompt"));
    // `text` is the first choice if the file has it.
    let both = folder("metadata.jsonl", r#"{"file_name": "a.png", "caption": "a", "text": "b"}"#, &["a.png"]);
    assert_eq!(open_folder(both.path()).unwrap().caption(0).unwrap(), "b");
    let source = open(two.path(), &options(None, Some("caption"), Some("prompt"))).unwrap();
    assert_eq!(source.prompt(0).unwrap().as_deref(), Some("b"));
}

#[test]
fn lists_records_and_lines_of_one_picture_are_its_captions() {
    let captions = |folder: TempDir| {
        let source = open_folder(folder.path()).unwrap();
        (0..source.len()).map(|row| source.captions(row).unwrap()).collect::<Vec<_>>()
    };
    let list = r#"{"file_name": "a.png", "captions": ["one", "", "two"]}"#;
    assert_eq!(captions(folder("metadata.jsonl", list, &["a.png"])), [["one", "two"]]);

    let records = "file_name,text\na.png,one\nb.png,other\n./a.png,two\na.png,\n";
    let records = captions(folder("metadata.csv", records, &["a.png", "b.png"]));
    assert_eq!(records, [vec!["one", "two"], vec!["other"]]);

    let lines = captions(folder("a.txt", " one\r\n\r\ntwo \n", &["a.png"]));
    assert_eq!(lines, [["one", "two"]]);
}

#[test]
fn records_of_one_picture_with_different_prompts_are_separate_rows() {
    let records = "file_name,question,answer\na.png,q1,one\na.png,q2,two\na.png,q1,three\n";
    let folder = folder("metadata.csv", records, &["a.png"]);
    let source = open(folder.path(), &options(None, None, Some("question"))).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!(source.captions(0).unwrap(), ["one", "three"]);
    assert_eq!(source.captions(1).unwrap(), ["two"]);
    assert_eq!(source.fingerprint(0).unwrap(), source.fingerprint(1).unwrap());
}

#[test]
fn records_without_a_caption_or_a_picture_are_errors_of_their_rows() {
    let lines = concat!(
        r#"{"file_name": "a.png", "text": "one"}"#,
        "\n",
        r#"{"file_name": "b.png"}"#,
        "\n",
        r#"{"file_name": "gone.png", "text": "three"}"#,
    );
    let folder = folder("metadata.jsonl", lines, &["a.png", "b.png"]);
    let source = open_folder(folder.path()).unwrap();
    assert_eq!(source.len(), 3);
    assert!(refusal(source.caption(1)).contains("line 2"), "{}", refusal(source.caption(1)));
    let text = refusal(source.image(2));
    assert!(text.contains("gone.png") && text.contains("line 3"), "{text}");
}

#[test]
fn blank_captions_beside_others_are_counted_and_columns_need_a_table() {
    let count =
        |source: &dyn CaptionSource| source.left_out().groups().map(ToString::to_string).collect::<Vec<_>>();
    let source = kinds(None, None).unwrap();
    assert_eq!(count(&source), ["2: blank captions of pictures that have others (row 0, row 0)"]);
    let records = folder("metadata.csv", "file_name,text\na.png,one\na.png,\n", &["a.png"]);
    let source = open_folder(records.path()).unwrap();
    assert_eq!(count(&source), ["1: blank captions of pictures that have others (a.png)"]);

    let texts = folder("a.txt", "one", &["a.png"]);
    let text = refusal(open(texts.path(), &options(None, None, Some("question"))));
    assert!(text.contains("no column `question` for the prompts: the captions are in text files"), "{text}");
}
