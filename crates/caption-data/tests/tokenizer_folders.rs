//! Checkpoint folders with further tokenizer files beside the vocabulary, compared with transformers
//! (fixtures/make_tokenizer_folders.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use caption_data::CaptionTokenizer;
use common::{json, message, numbers};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn folder(vocabulary: &[&str], files: &Map<String, Value>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("vocab.txt", &(vocabulary.join("\n") + "\n"));
    for (name, content) in files {
        let mut content = content.clone();
        if name == "tokenizer.json" && content.is_object() {
            content["model"]["vocab"] = vocabulary
                .iter()
                .zip(0..)
                .map(|(token, id): (_, u32)| ((*token).to_owned(), Value::from(id)))
                .collect();
        }
        write(name, content.as_str().map_or(content.to_string(), str::to_owned).as_str());
    }
    folder
}

#[test]
fn every_folder_gives_the_ids_and_texts_of_transformers() {
    let golden = json("tokenizer_folders.json");
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let (vocabulary, texts) = (strings(&golden["vocab"]), strings(&golden["texts"]));
    let vocabulary: Vec<&str> = vocabulary.iter().map(String::as_str).collect();
    let folders = golden["folders"].as_object().unwrap();
    assert!(folders.len() >= 48 && texts.len() == 20, "{} {}", folders.len(), texts.len());
    let mut wrong = Vec::new();
    for (name, expected) in folders {
        let folder = folder(&vocabulary, expected["files"].as_object().unwrap());
        let tokenizer = match CaptionTokenizer::from_pretrained(folder.path()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (i, text) in texts.iter().enumerate() {
            let (ids, decoded) = (numbers::<u32>(&expected["ids"][i]), &expected["decoded"][i]);
            let found = tokenizer.encode(text).unwrap();
            if found != ids {
                wrong.push(format!("{name}: {text:?}: {found:?}, not {ids:?}"));
            }
            let found = tokenizer.decode(&ids, true).unwrap();
            if found != decoded.as_str().unwrap() {
                wrong.push(format!("{name}: {ids:?}: {found:?}, not {decoded}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn folders_whose_ids_are_not_known_are_refused_with_the_option() {
    let vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bird"];
    let refusal = |files: Value| {
        let folder = folder(&vocabulary, files.as_object().unwrap());
        message(&CaptionTokenizer::from_pretrained(folder.path()).unwrap_err())
    };
    for (config, message) in [
        (json!({ "image_token": "<x>", "other_token": "<y>" }), "`other_token` is \"<y>\""),
        (json!({ "cls_token": 3 }), "`cls_token` is 3"),
        (json!({ "cls_token": null }), "cls_token is null"),
        (json!({ "unk_token": "<unk>" }), "its vocabulary has no <unk>"),
        (json!({ "tokenizer_class": "CLIPTokenizer" }), "`tokenizer_class` is \"CLIPTokenizer\""),
        (json!({ "added_tokens_decoder": { "7": 3 } }), "`added_tokens_decoder` is 3"),
    ] {
        let text = refusal(json!({ "tokenizer_config.json": config }));
        assert!(text.contains(message), "{text}");
    }
    // A byte-order mark becomes part of the first token, as in transformers.
    let text = refusal(json!({ "vocab.txt": "\u{feff}[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n" }));
    assert!(text.ends_with("vocab.txt: its vocabulary has no [PAD]"), "{text}");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let text = refusal(json!({ "tokenizer.json": pointer }));
    assert!(text.contains("tokenizer.json is a Git LFS pointer"), "{text}");
    let text = refusal(json!({ "added_tokens.json": ["<x>"] }));
    assert!(text.contains("added_tokens.json cannot be used: "), "{text}");
    let text = refusal(json!({ "special_tokens_map.json": "{" }));
    assert!(text.contains("special_tokens_map.json cannot be used: "), "{text}");
}
