use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizers::{Tokenizer, TruncationParams};

use crate::{Error, Result};

/// A checkpoint's BERT tokenizer: captions to ids and back, as transformers does it.
///
/// A caption becomes `[CLS] its words' pieces [SEP]`. A caption with more tokens than the model takes loses
/// its last pieces and keeps its `[SEP]`.
#[derive(Debug, Clone)]
pub struct CaptionTokenizer {
    tokenizer: Tokenizer,
    pad_id: u32,
    cls_id: u32,
    sep_id: u32,
    unk_id: Option<u32>,
    max_length: Option<usize>,
    clean_up_spaces: bool,
}

/// A text as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Whether the text has more tokens than [`CaptionTokenizer::max_length`] and lost the last ones.
    pub is_cut: bool,
}

/// What this crate reads of `tokenizer_config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    /// Whether there is such a file.
    #[serde(skip)]
    exists: bool,
    tokenizer_class: Option<String>,
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    /// A float, since "no limit" is written as 1e30.
    model_max_length: Option<f64>,
    clean_up_tokenization_spaces: Option<bool>,
    pad_token: Option<Value>,
    cls_token: Option<Value>,
    sep_token: Option<Value>,
    unk_token: Option<Value>,
    mask_token: Option<Value>,
}

impl CaptionTokenizer {
    /// Reads the tokenizer of a checkpoint folder: `tokenizer.json`, or where only that exists `vocab.txt`,
    /// and `tokenizer_config.json` if there is one. What that says of case, accents and Chinese characters holds
    /// also where `tokenizer.json` says something else.
    ///
    /// # Errors
    /// If a file is missing or broken, if the vocabulary has no padding, start or end token, or if the
    /// tokenizer does not put captions between start and end tokens.
    pub fn from_pretrained(checkpoint: impl AsRef<Path>) -> Result<Self> {
        let folder = checkpoint.as_ref();
        let (json, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let config_path = folder.join("tokenizer_config.json");
        let config = Config::read(&config_path)?;
        let path = if json.exists() || !vocabulary.exists() { &json } else { &vocabulary };
        let fail = |why| Error::Tokenizer { path: path.clone(), why };
        let text = fs::read_to_string(path).map_err(|error| Error::Io { path: path.clone(), error })?;
        let text = if path == &json {
            let mut tokenizer = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
            config.override_normalizer(&mut tokenizer, &config_path)?;
            tokenizer.to_string()
        } else {
            bert(&text, &config).map_err(&fail)?
        };
        let mut tokenizer: Tokenizer =
            text.parse().map_err(|error: tokenizers::Error| fail(error.to_string()))?;

        // Padding is the batch's business; what the file says of it and of truncation is the setting of some
        // other use.
        let max_length = config.model_max_length.filter(|n| *n < 1e20).map(|n| n as usize);
        let truncation = max_length.map(|max_length| TruncationParams { max_length, ..Default::default() });
        tokenizer.with_padding(None);
        tokenizer.with_truncation(truncation).map_err(|error| fail(error.to_string()))?;

        let id = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| fail(no_token(token)));
        let this = Self {
            pad_id: id(token(&config.pad_token, "[PAD]"))?,
            cls_id: id(token(&config.cls_token, "[CLS]"))?,
            sep_id: id(token(&config.sep_token, "[SEP]"))?,
            unk_id: tokenizer.token_to_id(token(&config.unk_token, "[UNK]")),
            max_length,
            clean_up_spaces: config.clean_up_tokenization_spaces.unwrap_or(false),
            tokenizer,
        };
        if this.encode("")? != [this.cls_id, this.sep_id] {
            return Err(fail(format!(
                "it does not put id {} before and id {} behind a caption",
                this.cls_id, this.sep_id
            )));
        }
        Ok(this)
    }

    /// The ids of a caption, from `[CLS]` to `[SEP]`, at most [`max_length`](Self::max_length) of them.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it, which a BERT tokenizer always can.
    pub fn encode(&self, caption: &str) -> Result<Vec<u32>> {
        self.encode_text(caption).map(|encoded| encoded.ids)
    }

    /// As [`encode`](Self::encode), and whether the caption was cut.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_text(&self, text: &str) -> Result<Encoded> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding =
            encoding.map_err(|error| Error::Encode { caption: text.to_owned(), why: error.to_string() })?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), is_cut: !encoding.get_overflowing().is_empty() })
    }

    /// The ids of a text that the model continues: `[CLS]` and the text, without the `[SEP]` that would end it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Encoded> {
        let mut encoded = self.encode_text(text)?;
        if encoded.ids.last() == Some(&self.sep_id) {
            encoded.ids.pop();
        }
        Ok(encoded)
    }

    /// Whether the vocabulary knows no word of a text, given as the ids of [`encode`](Self::encode): nothing stands between
    /// `[CLS]` and `[SEP]` but unknown tokens.
    pub fn is_unknown(&self, ids: &[u32]) -> bool {
        let is_word = |id: &u32| ![Some(self.cls_id), Some(self.sep_id), self.unk_id].contains(&Some(*id));
        !ids.iter().any(is_word)
    }

    /// The same tokenizer for a model with so many text positions: longer texts are cut to them.
    ///
    /// # Errors
    /// If there are too few for the special tokens.
    pub fn limited_to(mut self, positions: usize) -> Result<Self> {
        let max_length = self.max_length.unwrap_or(usize::MAX).min(positions);
        let truncation = TruncationParams { max_length, ..TruncationParams::default() };
        let too_few =
            |error: tokenizers::Error| Error::Encode { caption: String::new(), why: error.to_string() };
        self.tokenizer.with_truncation(Some(truncation)).map_err(too_few)?;
        self.max_length = Some(max_length);
        Ok(self)
    }

    /// The text of ids, as transformers' `decode`. Ids that the vocabulary does not have are left out.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = self.tokenizer.decode(ids, skip_special_tokens);
        let text = text.map_err(|error| Error::DecodeIds { ids: ids.to_vec(), why: error.to_string() })?;
        Ok(if self.clean_up_spaces { clean_up_spaces(text) } else { text })
    }

    /// The id that fills up shorter captions of a batch.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The id that every caption begins with.
    pub fn cls_id(&self) -> u32 {
        self.cls_id
    }

    /// The id that every caption ends with.
    pub fn sep_id(&self) -> u32 {
        self.sep_id
    }

    /// How many tokens the checkpoint says that a caption may have (`model_max_length`), if it does.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// How many ids there are.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => {
                let json = |error| Error::Json { path: path.to_owned(), error };
                Ok(Self { exists: true, ..serde_json::from_slice(&text).map_err(json)? })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::Io { path: path.to_owned(), error }),
        }
    }

    /// What transformers' `BertTokenizer` does to a text before it is cut into words.
    fn normalizer(&self) -> Value {
        json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": self.tokenize_chinese_chars.unwrap_or(true),
            "strip_accents": self.strip_accents,
            "lowercase": self.do_lower_case.unwrap_or(true),
        })
    }

    /// Gives a `tokenizer.json` the normalizer of this file where transformers does, which is for its
    /// `BertTokenizer`; other classes keep what `tokenizer.json` says.
    fn override_normalizer(&self, tokenizer: &mut Value, path: &Path) -> Result<()> {
        let is_bert = |class: &str| ["BertTokenizer", "BertTokenizerFast"].contains(&class);
        if !self.exists || !self.tokenizer_class.as_deref().is_none_or(is_bert) {
            return Ok(());
        }
        if tokenizer["normalizer"]["type"] == "BertNormalizer" {
            tokenizer["normalizer"] = self.normalizer();
            return Ok(());
        }
        let options = [
            ("do_lower_case", self.do_lower_case),
            ("strip_accents", self.strip_accents),
            ("tokenize_chinese_chars", self.tokenize_chinese_chars),
        ];
        match options.into_iter().find_map(|(name, value)| Some((name, value?))) {
            None => Ok(()),
            Some((option, value)) => Err(Error::UnsupportedOption {
                path: path.to_owned(),
                option: option.to_owned(),
                value: value.to_string(),
                supported: "null, as the normalizer in tokenizer.json is no BertNormalizer",
            }),
        }
    }
}

/// A special token of `tokenizer_config.json`, where it is a string or, in older files, an `AddedToken`.
fn token<'a>(value: &'a Option<Value>, default: &'a str) -> &'a str {
    let value = value.as_ref();
    value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str())).unwrap_or(default)
}

fn no_token(token: &str) -> String {
    format!("its vocabulary has no {token}")
}

/// The `tokenizer.json` that transformers' `BertTokenizer` amounts to, for a bare vocabulary with one token a
/// line.
fn bert(vocabulary: &str, config: &Config) -> std::result::Result<String, String> {
    let ids: Map<String, Value> =
        vocabulary.lines().zip(0..).map(|(word, id)| (word.to_owned(), id.into())).collect();
    let id = |word: &str| ids.get(word).ok_or_else(|| no_token(word));
    let [cls, sep, unk] =
        [(&config.cls_token, "[CLS]"), (&config.sep_token, "[SEP]"), (&config.unk_token, "[UNK]")]
            .map(|(value, default)| token(value, default));
    let special = [cls, sep, unk, token(&config.pad_token, "[PAD]"), token(&config.mask_token, "[MASK]")];
    let added = |word: &&str| {
        let id = ids.get(*word)?;
        Some(json!({ "id": id, "content": word, "special": true, "single_word": false, "lstrip": false,
                     "rstrip": false, "normalized": false }))
    };
    let piece = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let template_token =
        |word: &str| Ok::<_, String>(json!({ "id": word, "ids": [id(word)?], "tokens": [word] }));
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": special.iter().filter_map(added).collect::<Vec<_>>(),
        "normalizer": config.normalizer(),
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece(cls), { "Sequence": { "id": "A", "type_id": 0 } }, piece(sep)],
            "pair": [],
            "special_tokens": { cls: template_token(cls)?, sep: template_token(sep)? },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    });
    Ok(tokenizer.to_string())
}

/// What transformers does to decoded text where `clean_up_tokenization_spaces` is set.
fn clean_up_spaces(text: String) -> String {
    let joined =
        [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")];
    let suffixes = [(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")];
    joined.into_iter().chain(suffixes).fold(text, |text, (from, to)| text.replace(from, to))
}
