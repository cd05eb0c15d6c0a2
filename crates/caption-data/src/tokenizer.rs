use std::fs;
use std::path::Path;

use tokenizers::{Model as _, Tokenizer, TruncationDirection, TruncationParams};

use crate::tokenizer_config::TokenizerConfig;
use crate::{Error, Result, bert, lfs};

/// The BERT tokenizer of a checkpoint, which converts captions to ids and back like transformers.
///
/// A caption becomes `[CLS]` (or [another start token](Self::starting_with)), its word pieces and `[SEP]`. A caption with too many tokens for the model loses
/// its last pieces, or its first if `truncation_side` says so, and keeps its `[SEP]`.
#[derive(Debug, Clone)]
pub struct CaptionTokenizer {
    tokenizer: Tokenizer,
    /// Whether the last id is that of a mask token that is not in the vocabulary.
    mask_is_added: bool,
    pad_id: u32,
    cls_id: u32,
    /// The first id of every caption.
    start_id: u32,
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
    /// Whether the text had more tokens than [`CaptionTokenizer::max_length`] and lost the last ones.
    pub is_cut: bool,
}

impl CaptionTokenizer {
    /// Reads the tokenizer of a checkpoint folder: `tokenizer.json`, or else `vocab.txt`; and
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, if they exist. For case,
    /// accents and Chinese characters, `tokenizer_config.json` takes precedence over `tokenizer.json`.
    ///
    /// # Errors
    /// If a file is missing or broken, if the vocabulary has no padding, start or end token, or if the
    /// tokenizer does not put captions between start and end tokens.
    pub fn from_pretrained(checkpoint: impl AsRef<Path>) -> Result<Self> {
        let folder = checkpoint.as_ref();
        let (json, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let config = TokenizerConfig::read(folder)?;
        let path = if json.exists() || !vocabulary.exists() { &json } else { &vocabulary };
        let fail = |why| Error::Tokenizer { path: path.clone(), why };
        let read = if path == &json { bert::from_json } else { bert::from_vocabulary };
        let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
        lfs::check(path, text.as_bytes())?;
        let mut tokenizer = read(path, &text, &config)?;

        // Padding is added by the batch. The file's settings for padding and truncation are not used.
        let options = &config.options;
        let max_length = options.model_max_length.filter(|n| *n < 1e20).map(|n| n as usize);
        let direction = match options.truncation_side.as_deref() {
            Some("left") => TruncationDirection::Left,
            _ => TruncationDirection::Right,
        };
        let truncation =
            max_length.map(|max_length| TruncationParams { max_length, direction, ..Default::default() });
        tokenizer.with_padding(None);
        tokenizer.with_truncation(truncation).map_err(|error| fail(error.to_string()))?;
        tokenizer.set_encode_special_tokens(options.split_special_tokens.unwrap_or(false));

        let id = |name: &str, default: &str| {
            let token = config.named(name, default).unwrap_or(default);
            tokenizer.token_to_id(token).ok_or_else(|| fail(bert::no_token(token)))
        };
        let mask = config.named("mask_token", "[MASK]").unwrap_or("[MASK]");
        let is_last =
            tokenizer.token_to_id(mask).is_some_and(|id| id as usize + 1 == tokenizer.get_vocab_size(true));
        let cls_id = id("cls_token", "[CLS]")?;
        let this = Self {
            mask_is_added: is_last && tokenizer.get_model().token_to_id(mask).is_none(),
            pad_id: id("pad_token", "[PAD]")?,
            cls_id,
            start_id: cls_id,
            sep_id: id("sep_token", "[SEP]")?,
            unk_id: config.named("unk_token", "[UNK]").and_then(|token| tokenizer.token_to_id(token)),
            max_length,
            clean_up_spaces: options.clean_up_tokenization_spaces.unwrap_or(false),
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

    /// The same tokenizer with another first token in captions and prompts, such as the `[DEC]` of BLIP's
    /// captions. It need not be in the vocabulary, since published tokenizers of BLIP lack it.
    pub fn starting_with(self, id: u32) -> Self {
        Self { start_id: id, ..self }
    }

    /// The ids of a caption, from its start token to `[SEP]`, at most [`max_length`](Self::max_length) of them.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it, which cannot happen with a BERT tokenizer.
    pub fn encode(&self, caption: &str) -> Result<Vec<u32>> {
        self.encode_text(caption).map(|encoded| encoded.ids)
    }

    /// As [`encode`](Self::encode), and whether the caption was truncated.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_text(&self, text: &str) -> Result<Encoded> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding =
            encoding.map_err(|error| Error::Encode { caption: text.to_owned(), why: error.to_string() })?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some(first) = ids.first_mut().filter(|first| **first == self.cls_id) {
            *first = self.start_id;
        }
        Ok(Encoded { ids, is_cut: !encoding.get_overflowing().is_empty() })
    }

    /// The ids of a prompt: the start token and the text, without the `[SEP]` that would end it.
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

    /// Whether a text has no word of the vocabulary, given its ids from [`encode`](Self::encode): all tokens
    /// between the start token and `[SEP]` are unknown.
    pub fn is_unknown(&self, ids: &[u32]) -> bool {
        let no_words = [Some(self.start_id), Some(self.cls_id), Some(self.sep_id), self.unk_id];
        let is_word = |id: &u32| !no_words.contains(&Some(*id));
        !ids.iter().any(is_word)
    }

    /// The same tokenizer for a model with `positions` text positions: longer texts are truncated to them.
    ///
    /// # Errors
    /// If there are too few for the special tokens.
    pub fn limited_to(mut self, positions: usize) -> Result<Self> {
        let max_length = self.max_length.unwrap_or(usize::MAX).min(positions);
        let settings = self.tokenizer.get_truncation().cloned().unwrap_or_default();
        let truncation = TruncationParams { max_length, ..settings };
        let too_few =
            |error: tokenizers::Error| Error::Encode { caption: String::new(), why: error.to_string() };
        self.tokenizer.with_truncation(Some(truncation)).map_err(too_few)?;
        self.max_length = Some(max_length);
        Ok(self)
    }

    /// The text of ids, like transformers' `decode`. Ids that are not in the vocabulary are left out.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = self.tokenizer.decode(ids, skip_special_tokens);
        let text = text.map_err(|error| Error::DecodeIds { ids: ids.to_vec(), why: error.to_string() })?;
        Ok(if self.clean_up_spaces { clean_up_spaces(text) } else { text })
    }

    /// The id that pads the shorter captions of a batch.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The id of `[CLS]`.
    pub fn cls_id(&self) -> u32 {
        self.cls_id
    }

    /// The id at the beginning of every caption: `[CLS]`, or that of [`starting_with`](Self::starting_with).
    pub fn start_id(&self) -> u32 {
        self.start_id
    }

    /// The id at the end of every caption.
    pub fn sep_id(&self) -> u32 {
        self.sep_id
    }

    /// The maximum number of tokens of a caption (`model_max_length`), if the checkpoint sets one.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// The number of rows that a model's word embedding needs: one for each id, except that of a mask token
    /// that the vocabulary lacks. Such a token comes last, as in transformers, and no caption contains it.
    pub fn vocab_size(&self) -> usize {
        let size = self.tokenizer.get_vocab_size(true);
        size - usize::from(self.mask_is_added && size > 0)
    }
}

/// The clean-up that transformers applies to decoded text if `clean_up_tokenization_spaces` is set.
fn clean_up_spaces(text: String) -> String {
    let joined =
        [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")];
    let suffixes = [(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")];
    joined.into_iter().chain(suffixes).fold(text, |text, (from, to)| text.replace(from, to))
}
