//! transformers' `BertTokenizer`: built from a bare vocabulary, and the changes that it makes to a
//! `tokenizer.json`.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::tokenizer_config::TokenizerConfig;
use crate::{Error, Result};

/// The tokenizer for a `vocab.txt`, a vocabulary with one token per line.
pub(crate) fn from_vocabulary(path: &Path, vocabulary: &str, config: &TokenizerConfig) -> Result<Tokenizer> {
    let fail = |why: String| Error::Tokenizer { path: path.to_owned(), why };
    let broken = |error: tokenizers::Error| fail(error.to_string());
    check_class(config)?;
    let added = config.added_tokens([], true)?;
    let ids: Map<String, Value> =
        vocabulary.lines().zip(0..).map(|(word, id)| (word.trim_end().to_owned(), id.into())).collect();
    let named = |name: &'static str, default: &'static str| {
        let token = config.named(name, default).ok_or_else(|| fail(format!("{name} is null")))?;
        // A token that no file contains would get an id that the model was not trained with.
        let is_there = ids.contains_key(token) || name != "unk_token" && config.mentions(name, token);
        if is_there { Ok(token) } else { Err(fail(no_token(token))) }
    };
    let (unk, _pad) = (named("unk_token", "[UNK]")?, named("pad_token", "[PAD]")?);
    let (cls, sep) = (named("cls_token", "[CLS]")?, named("sep_token", "[SEP]")?);
    let tokenizer = json!({
        "version": "1.0",
        "normalizer": normalizer(config),
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": &ids,
        },
    });
    let mut tokenizer: Tokenizer = tokenizer.to_string().parse().map_err(broken)?;
    tokenizer.add_tokens(added).map_err(broken)?;
    let id = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| fail(no_token(token)));
    let piece = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let special = |word: &str| Ok::<_, Error>(json!({ "id": word, "ids": [id(word)?], "tokens": [word] }));
    let template = json!({
        "type": "TemplateProcessing",
        "single": [piece(cls), { "Sequence": { "id": "A", "type_id": 0 } }, piece(sep)],
        "pair": [],
        "special_tokens": { cls: special(cls)?, sep: special(sep)? },
    });
    let template: PostProcessorWrapper =
        serde_json::from_value(template).map_err(|error| fail(error.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// The tokenizer for a `tokenizer.json`. If transformers would load the file with its `BertTokenizer` class,
/// the normalizer follows `tokenizer_config.json` and the special tokens are added again. Other classes keep
/// the file's settings and add to them.
pub(crate) fn from_json(path: &Path, json: &str, config: &TokenizerConfig) -> Result<Tokenizer> {
    let fail = |why: String| Error::Tokenizer { path: path.to_owned(), why };
    let broken = |error: tokenizers::Error| fail(error.to_string());
    let mut tokenizer: Value = serde_json::from_str(json).map_err(|error| fail(error.to_string()))?;
    let is_bert = config.exists && has_class(config, &["BertTokenizer", "BertTokenizerFast"]);
    let mut of_json = Vec::new();
    if is_bert {
        override_normalizer(&mut tokenizer, config)?;
        for token in tokenizer["added_tokens"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            let number =
                token["id"].as_u64().ok_or_else(|| fail(format!("an added token without an id: {token}")))?;
            let token: AddedToken = serde_json::from_value(token).map_err(|error| fail(error.to_string()))?;
            of_json.push((number, token));
        }
    }
    let mut tokenizer: Tokenizer = tokenizer.to_string().parse().map_err(broken)?;
    tokenizer.add_tokens(config.added_tokens(of_json, is_bert)?).map_err(broken)?;
    Ok(tokenizer)
}

pub(crate) fn no_token(token: &str) -> String {
    format!("its vocabulary has no {token}")
}

fn has_class(config: &TokenizerConfig, classes: &[&str]) -> bool {
    config.options.tokenizer_class.as_deref().is_none_or(|class| classes.contains(&class))
}

/// Refuses a vocabulary that is not for BERT's tokenizer.
fn check_class(config: &TokenizerConfig) -> Result<()> {
    const SAME: [&str; 6] = [
        "BertTokenizer",
        "BertTokenizerFast",
        "DistilBertTokenizer",
        "DistilBertTokenizerFast",
        "ElectraTokenizer",
        "ElectraTokenizerFast",
    ];
    if has_class(config, &SAME) {
        return Ok(());
    }
    Err(Error::UnsupportedOption {
        path: config.path.clone(),
        option: "tokenizer_class".to_owned(),
        value: format!("{:?}", config.options.tokenizer_class.as_deref().unwrap_or_default()),
        supported: "BertTokenizer for a checkpoint of vocab.txt without tokenizer.json",
    })
}

/// The normalization that transformers' `BertTokenizer` applies before it splits a text into words.
fn normalizer(config: &TokenizerConfig) -> Value {
    json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": config.options.tokenize_chinese_chars.unwrap_or(true),
        "strip_accents": config.options.strip_accents,
        "lowercase": config.options.do_lower_case.unwrap_or(true),
    })
}

fn override_normalizer(tokenizer: &mut Value, config: &TokenizerConfig) -> Result<()> {
    if tokenizer["normalizer"]["type"] == "BertNormalizer" {
        tokenizer["normalizer"] = normalizer(config);
        return Ok(());
    }
    let options = [
        ("do_lower_case", config.options.do_lower_case),
        ("strip_accents", config.options.strip_accents),
        ("tokenize_chinese_chars", config.options.tokenize_chinese_chars),
    ];
    match options.into_iter().find_map(|(name, value)| Some((name, value?))) {
        None => Ok(()),
        Some((option, value)) => Err(Error::UnsupportedOption {
            path: config.path.clone(),
            option: option.to_owned(),
            value: value.to_string(),
            supported: "null, as the normalizer in tokenizer.json is no BertNormalizer",
        }),
    }
}
