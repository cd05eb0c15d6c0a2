//! Layouts that `datasets` reads (fixtures/make_layouts.py), text files of editors and spreadsheets, and
//! files of a folder that are left out.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use caption_data::{CaptionSource, ImageFolder, LeftOutReason, Result, RgbImage, SourceOptions, open};
use common::{fixture, message};
use image::Rgb;
use tempfile::TempDir;

/// The picture of row `i`.
fn picture(i: usize) -> RgbImage {
    RgbImage::from_pixel(4 + i as u32, 3, Rgb([10 * i as u8, 20 * i as u8, 30 * i as u8]))
}

/// A folder with the given files, and with pictures, the first of which is that of row 0.
fn folder(files: &[(&str, &[u8])], pictures: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    files.iter().for_each(|(name, content)| fs::write(at(name), content).unwrap());
    for (i, name) in pictures.iter().enumerate() {
        picture(i).save_with_format(at(name), image::ImageFormat::Png).unwrap();
    }
    folder
}

fn open_at(path: impl AsRef<Path>) -> Result<Arc<dyn CaptionSource>> {
    open(path, &SourceOptions::default())
}

fn assert_rows(source: Result<Arc<dyn CaptionSource>>, len: usize) {
    let source = source.unwrap();
    assert_eq!(source.len(), len);
    for row in 0..len {
        assert_eq!(source.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(source.image(row).unwrap(), picture(row), "row {row}");
    }
}

fn refusal(source: Result<Arc<dyn CaptionSource>>) -> String {
    message(&source.err().unwrap())
}

fn left_out(folder: &TempDir) -> Vec<String> {
    open_at(folder.path()).unwrap().left_out().groups().map(ToString::to_string).collect()
}

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

// Files that are left out

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

// Arrow

#[cfg(not(feature = "arrow"))]
#[test]
fn arrow_files_without_the_feature_are_an_error_with_advice() {
    let text = refusal(open_at(fixture("layouts/saved")));
    assert!(text.contains("data-00000-of-00002.arrow is an Arrow file"), "{text}");
    assert!(text.contains("--features arrow") && text.contains("to_parquet"), "{text}");
}

#[cfg(feature = "arrow")]
mod arrow {
    use super::*;

    #[test]
    fn saved_datasets_are_read_in_all_their_shards() {
        assert_rows(open_at(fixture("layouts/saved")), 5);
        let source = open_at(fixture("layouts/saved")).unwrap();
        assert!(
            (0..5).all(|row| source.fingerprint(row).unwrap() != source.fingerprint((row + 1) % 5).unwrap())
        );
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
            assert!(
                text.contains("data-00001-of-00002.arrow: ") || text.contains("no rows"),
                "{length}: {text}"
            );
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
}
