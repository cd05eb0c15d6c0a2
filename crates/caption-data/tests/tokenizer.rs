//! Ids and texts, compared with transformers' `BertTokenizer` (fixtures/make_tokens.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use caption_data::CaptionTokenizer;
use common::{fixture, json, numbers};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint folder with the published tokenizer of microsoft/git-base: a tokenizer.json of 0.5 MB.
fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = fs::read_to_string(fixture("tokenizer/vocab.txt")).unwrap();
    let mut tokenizer = json("tokenizer/tokenizer_without_vocab.json");
    tokenizer["model"]["vocab"] = vocabulary
        .lines()
        .zip(0..)
        .map(|(token, id): (_, u32)| (token.to_owned(), Value::from(id)))
        .collect();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::copy(fixture("tokenizer/tokenizer_config.json"), folder.path().join("tokenizer_config.json"))
        .unwrap();
    folder
}

fn assert_equals_transformers(tokenizer: &CaptionTokenizer) {
    let golden = json("tokenizer/captions.json");
    let captions = golden["captions"].as_array().unwrap();
    assert_eq!(captions.len(), 200);
    for caption in captions {
        let text = caption["text"].as_str().unwrap();
        let ids: Vec<u32> = numbers(&caption["ids"]);
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), caption["decoded"], "{text:?}");
    }
    assert!(
        captions.iter().any(|caption| caption["ids"].as_array().unwrap().len() == 512),
        "an over-long caption"
    );
    for case in golden["decoded"].as_array().unwrap() {
        let ids: Vec<u32> = numbers(&case["ids"]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["text"], "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["with_special"], "{ids:?}");
    }
    assert_eq!((tokenizer.pad_id(), tokenizer.cls_id(), tokenizer.sep_id()), (0, 101, 102));
    assert_eq!((tokenizer.max_length(), tokenizer.vocab_size()), (Some(512), 30522));
}

#[test]
fn tokenizer_json_gives_the_ids_of_transformers() {
    assert_equals_transformers(&CaptionTokenizer::from_pretrained(checkpoint().path()).unwrap());
}

#[test]
fn vocab_txt_alone_gives_the_ids_of_transformers() {
    assert_equals_transformers(&CaptionTokenizer::from_pretrained(fixture("tokenizer")).unwrap());
}

#[test]
fn truncation_and_padding_that_the_file_was_saved_with_are_not_used() {
    let folder = checkpoint();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["truncation"] =
        json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    tokenizer["padding"] = json!({
        "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    });
    fs::write(&path, tokenizer.to_string()).unwrap();
    let ids =
        CaptionTokenizer::from_pretrained(folder.path()).unwrap().encode("a drawing of a bird").unwrap();
    assert_eq!(ids, [101, 1037, 5059, 1997, 1037, 4743, 102]);
}

#[test]
fn the_config_sets_length_case_and_clean_up() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("tokenizer/vocab.txt"), folder.path().join("vocab.txt")).unwrap();
    let with = |config: Value| {
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        CaptionTokenizer::from_pretrained(folder.path()).unwrap()
    };
    assert_eq!(
        with(json!({ "model_max_length": 4 })).encode("a red bird sings").unwrap(),
        [101, 1037, 2417, 102]
    );
    let unlimited = with(
        json!({ "model_max_length": 1e30, "pad_token": { "content": "[PAD]", "__type": "AddedToken" } }),
    );
    assert_eq!((unlimited.max_length(), unlimited.encode(&"a ".repeat(700)).unwrap().len()), (None, 702));
    // "Red" is not in the lower-case vocabulary.
    assert_eq!(with(json!({ "do_lower_case": false })).encode("Red red").unwrap(), [101, 100, 2417, 102]);
    let ids = [101, 2123, 1005, 1056, 102]; // don ' t
    assert_eq!(with(json!({ "clean_up_tokenization_spaces": true })).decode(&ids, true).unwrap(), "don't");
    assert_eq!(with(json!({ "clean_up_tokenization_spaces": false })).decode(&ids, true).unwrap(), "don ' t");
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(CaptionTokenizer::from_pretrained(folder.path()).unwrap().max_length(), None);
}

#[test]
fn the_config_decides_on_case_accents_and_chinese_characters_in_both_layouts() {
    let (json_layout, vocabulary_layout) = (checkpoint(), tempfile::tempdir().unwrap());
    fs::copy(fixture("tokenizer/vocab.txt"), vocabulary_layout.path().join("vocab.txt")).unwrap();
    // The ids of transformers 5.23's BertTokenizer for each configuration, the same for both layouts.
    for (config, ids) in [
        (json!({}), vec![101, 2417, 2417, 1041, 1746, 1861, 102]),
        (json!({ "do_lower_case": false }), vec![101, 100, 2417, 100, 1746, 1861, 102]),
        (json!({ "strip_accents": false }), vec![101, 2417, 2417, 100, 1746, 1861, 102]),
        (json!({ "tokenize_chinese_chars": false }), vec![101, 2417, 2417, 1041, 1746, 30387, 102]),
    ] {
        for folder in [&json_layout, &vocabulary_layout] {
            fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            let tokenizer = CaptionTokenizer::from_pretrained(folder.path()).unwrap();
            assert_eq!(tokenizer.encode("Red red \u{e9} \u{4e2d}\u{6587}").unwrap(), ids, "{config}");
        }
    }
}

#[test]
fn only_a_bert_tokenizer_overrides_tokenizer_json_and_only_a_bert_normalizer() {
    let folder = checkpoint();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["normalizer"]["lowercase"] = json!(false);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let config_path = folder.path().join("tokenizer_config.json");
    let encode = |config: Value| {
        fs::write(&config_path, config.to_string()).unwrap();
        CaptionTokenizer::from_pretrained(folder.path()).map(|tokenizer| tokenizer.encode("Red").unwrap())
    };
    let (lower, upper) = ([101, 2417, 102], [101, 100, 102]);
    assert_eq!(encode(json!({ "tokenizer_class": "BertTokenizerFast" })).unwrap(), lower);
    let other = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true });
    assert_eq!(encode(other).unwrap(), upper);
    fs::remove_file(&config_path).unwrap();
    assert_eq!(CaptionTokenizer::from_pretrained(folder.path()).unwrap().encode("Red").unwrap(), upper);

    tokenizer["normalizer"] = json!({ "type": "Lowercase" });
    fs::write(&path, tokenizer.to_string()).unwrap();
    assert_eq!(encode(json!({})).unwrap(), lower);
    let text = encode(json!({ "do_lower_case": false })).unwrap_err().to_string();
    assert!(
        text.contains("tokenizer_config.json: `do_lower_case` is false")
            && text.contains("no BertNormalizer"),
        "{text}"
    );
}

#[test]
fn unusable_tokenizers_are_refused_with_the_file_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || CaptionTokenizer::from_pretrained(folder.path()).unwrap_err().to_string();
    assert!(refusal().contains("tokenizer.json"), "{}", refusal());
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\nred\n").unwrap();
    assert!(refusal().ends_with("vocab.txt: its vocabulary has no [SEP]"), "{}", refusal());
    fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(refusal().contains("tokenizer.json: "), "{}", refusal());

    let folder = checkpoint();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    fs::write(&path, tokenizer.to_string()).unwrap();
    let text = CaptionTokenizer::from_pretrained(folder.path()).unwrap_err().to_string();
    assert!(text.contains("does not put id 101 before and id 102 behind"), "{text}");
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let text = CaptionTokenizer::from_pretrained(folder.path()).unwrap_err().to_string();
    assert!(text.contains("tokenizer_config.json"), "{text}");
}
