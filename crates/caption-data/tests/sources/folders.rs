//! Folders of pictures with metadata or text files.

use super::*;

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
