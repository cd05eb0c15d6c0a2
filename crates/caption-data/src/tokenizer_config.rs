//! The settings of a checkpoint's tokenizer apart from its vocabulary: `tokenizer_config.json`,
//! `special_tokens_map.json` and `added_tokens.json`, merged as in transformers 5.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::{Error, Result};

/// The settings of a tokenizer.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    /// The path of `tokenizer_config.json`, for messages.
    pub(crate) path: PathBuf,
    /// Whether there is such a file.
    pub(crate) exists: bool,
    pub(crate) options: Options,
    /// All settings, with those of `special_tokens_map.json`.
    merged: Map<String, Value>,
    /// Added tokens by their numbers in the file. The numbers give their order, but not always their ids.
    numbered: BTreeMap<u64, AddedToken>,
}

/// The settings that are read from `tokenizer_config.json`, apart from its tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    pub(crate) tokenizer_class: Option<String>,
    pub(crate) do_lower_case: Option<bool>,
    pub(crate) strip_accents: Option<bool>,
    pub(crate) tokenize_chinese_chars: Option<bool>,
    /// A float, since "no limit" is written as 1e30.
    pub(crate) model_max_length: Option<f64>,
    pub(crate) truncation_side: Option<String>,
    pub(crate) clean_up_tokenization_spaces: Option<bool>,
    pub(crate) split_special_tokens: Option<bool>,
    added_tokens_decoder: Option<BTreeMap<u64, Value>>,
}

/// Named special tokens in the order in which they are added, with the defaults of transformers'
/// `BertTokenizer`.
const NAMED: [(&str, Option<&str>); 7] = [
    ("bos_token", None),
    ("eos_token", None),
    ("unk_token", Some("[UNK]")),
    ("sep_token", Some("[SEP]")),
    ("pad_token", Some("[PAD]")),
    ("cls_token", Some("[CLS]")),
    ("mask_token", Some("[MASK]")),
];

impl TokenizerConfig {
    /// Reads the settings of a checkpoint folder; none of the files need exist.
    ///
    /// # Errors
    /// If a file is broken or has an option that is not supported.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        let config = read::<Map<String, Value>>(&path)?;
        let exists = config.is_some();
        let merged = config.unwrap_or_default();
        let json = |source| Error::Json { path: path.clone(), source };
        let options: Options = serde_json::from_value(Value::Object(merged.clone())).map_err(json)?;
        let mut this = Self { path: path.clone(), exists, options, merged, numbered: BTreeMap::new() };
        if let Some(tokens) = this.options.added_tokens_decoder.take() {
            for (number, token) in tokens {
                let token = added_token(&token, false)
                    .ok_or_else(|| this.unsupported("added_tokens_decoder", &token))?;
                this.numbered.insert(number, token);
            }
            this.rename_additional();
            return Ok(this); // the other files are not read then
        }
        this.rename_additional();
        for (name, value) in
            read::<Map<String, Value>>(&folder.join("special_tokens_map.json"))?.unwrap_or_default()
        {
            this.merge(name, value);
        }
        let special = this.special_names();
        for (token, number) in
            read::<BTreeMap<String, u64>>(&folder.join("added_tokens.json"))?.unwrap_or_default()
        {
            let is_special = special.contains(&token);
            this.numbered.insert(number, AddedToken::from(token, is_special));
        }
        Ok(this)
    }

    /// Overrides a setting of `tokenizer_config.json` with that of `special_tokens_map.json`.
    fn merge(&mut self, name: String, mut value: Value) {
        if let Some(token) = value.as_object_mut().filter(|_| name != "extra_special_tokens") {
            token.insert("special".to_owned(), true.into());
        }
        match (self.merged.get_mut(&name), value) {
            (Some(Value::Array(known)), Value::Array(more)) if name == "extra_special_tokens" => {
                known.extend(more)
            }
            (_, value) => drop(self.merged.insert(name, value)),
        }
    }

    /// Renames the additional special tokens of older files to the newer name, if no tokens have that yet.
    fn rename_additional(&mut self) {
        let is_empty = |extra: &Value| match extra {
            Value::Array(list) => list.is_empty(),
            Value::Object(names) => names.is_empty(),
            other => other.is_null(),
        };
        if self.merged.get("extra_special_tokens").is_none_or(is_empty)
            && let Some(tokens) = self.merged.remove("additional_special_tokens")
        {
            self.merged.insert("extra_special_tokens".to_owned(), tokens);
        }
    }

    /// The tokens that the files declare special, without the additional ones of `special_tokens_map.json`.
    fn special_names(&self) -> Vec<String> {
        let named = NAMED.iter().filter_map(|(name, _)| self.merged.get(*name));
        let tokens = named.chain(self.list("extra_special_tokens"));
        tokens.filter_map(content).map(str::to_owned).collect()
    }

    fn list(&self, name: &str) -> &[Value] {
        self.merged.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The token with that name, or the default if no file has one; `None` if it is null.
    pub(crate) fn named<'a>(&'a self, name: &str, default: &'a str) -> Option<&'a str> {
        self.merged.get(name).map_or(Some(default), content)
    }

    /// Whether a file gives this token that name.
    pub(crate) fn mentions(&self, name: &str, token: &str) -> bool {
        self.merged.contains_key(name) || self.numbered.values().any(|added| added.content == token)
    }

    /// The tokens to add to a vocabulary, in their order: those with numbers, those with names, then others.
    /// `of_json` are the tokens of `tokenizer.json`, with their ids.
    ///
    /// # Errors
    /// If a token is not written in transformers' form, or if tokens need new ids and their order is unknown.
    pub(crate) fn added_tokens(
        &self,
        of_json: impl IntoIterator<Item = (u64, AddedToken)>,
        with_defaults: bool,
    ) -> Result<Vec<AddedToken>> {
        let mut numbered = self.numbered.clone();
        if !self.merged.contains_key("added_tokens_decoder") {
            numbered.extend(of_json);
        }
        let mut tokens: Vec<AddedToken> = numbered.into_values().collect();
        let mut names = Vec::new();
        for (name, default) in NAMED {
            let token = match self.merged.get(name) {
                None => default.filter(|_| with_defaults).map(|token| AddedToken::from(token, true)),
                Some(Value::Null) => None,
                Some(value) => Some(added_token(value, true).ok_or_else(|| self.unsupported(name, value))?),
            };
            names.extend(token);
        }
        names.extend(self.other_names()?);
        for token in names {
            match tokens.iter_mut().find(|other| other.content == token.content) {
                Some(known) => known.special = true,
                None => tokens.push(token),
            }
        }
        for value in self.extra() {
            let token =
                added_token(value, true).ok_or_else(|| self.unsupported("extra_special_tokens", value))?;
            if !tokens.iter().any(|other| other.content == token.content) {
                tokens.push(token);
            }
        }
        Ok(tokens)
    }

    /// A token with a name of the checkpoint's own, such as `image_token`.
    fn other_names(&self) -> Result<Option<AddedToken>> {
        let is_other =
            |name: &str| name.ends_with("_token") && !NAMED.iter().any(|(known, _)| *known == name);
        let mut others: Vec<(&str, &Value)> = self
            .merged
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .filter(|(name, _)| is_other(name))
            .collect();
        if let Some(Value::Object(more)) = self.merged.get("extra_special_tokens") {
            others.extend(more.iter().map(|(name, value)| (name.as_str(), value)));
        }
        others.retain(|(_, value)| content(value).is_some());
        match others.as_slice() {
            [] => Ok(None),
            [(name, value)] => {
                added_token(value, true).map(Some).ok_or_else(|| self.unsupported(name, value))
            }
            // Their ids would depend on the order in the file, which the parser does not keep.
            [_, (name, value), ..] => Err(self.unsupported(name, value)),
        }
    }

    /// Special tokens without names.
    fn extra(&self) -> &[Value] {
        let is_list = |name: &&str| self.merged.get(*name).is_some_and(Value::is_array);
        let name = ["extra_special_tokens", "additional_special_tokens"].into_iter().find(is_list);
        name.map(|name| self.list(name)).unwrap_or_default()
    }

    fn unsupported(&self, option: &str, value: &Value) -> Error {
        Error::UnsupportedOption {
            path: self.path.clone(),
            option: option.to_owned(),
            value: value.to_string(),
            supported: "tokens as strings or objects with `content`, and one name beside those of BERT",
        }
    }
}

/// The text of a token, which is a string or an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token with its flags. A special token is matched in the text before normalization, unless its flags say
/// otherwise.
fn added_token(value: &Value, is_special: bool) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = is_special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content(value)?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(match flag("normalized") {
        Some(normalized) => token.normalized(normalized),
        None => token,
    })
}

/// Reads a JSON file, if it exists.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => {
            let json = |source| Error::Json { path: path.to_owned(), source };
            serde_json::from_slice(&text).map(Some).map_err(json)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}
