//! How captions are generated.

mod resolve;

use super::names::names;

/// Decoding options, with the names and meanings of Hugging Face's GenerationConfig. For `None`, the option of
/// the checkpoint's generation_config.json is used, else the recipe's default, which is named here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoding {
    /// Number of beams; 1 is greedy decoding. Default: 2, and 1 with sampling.
    pub num_beams: Option<usize>,
    /// Maximum length in tokens, excluding the prompt. Default: 40.
    pub max_new_tokens: Option<usize>,
    /// Minimum length in tokens, excluding the end token and the prompt. Default: 0.
    pub min_new_tokens: Option<usize>,
    /// Beams are ranked by log-probability / length^penalty: above 0 favours long captions, below 0 short ones. Default: 1.
    pub length_penalty: Option<f64>,
    /// A sequence of this many tokens is never repeated; 0 allows repetition. Default: 2.
    pub no_repeat_ngram_size: Option<usize>,
    /// Divides the scores of tokens that have occurred already: above 1 discourages repetition. Default: 1.15.
    pub repetition_penalty: Option<f64>,
    /// When beam search stops. Default: as soon as there are as many finished captions as beams.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether each token is sampled by its probability. Default: false.
    pub do_sample: Option<bool>,
    /// Divides the scores before sampling: below 1 favours likely tokens more. Default: 1.
    pub temperature: Option<f64>,
    /// Sampling is from this many likeliest tokens; 0 for all. Default: 50.
    pub top_k: Option<usize>,
    /// Sampling is from the likeliest tokens that together reach this probability. Default: 1.
    pub top_p: Option<f64>,
    /// Sampling is from the tokens that are at least this share as probable as the likeliest one. Default: 0.
    pub min_p: Option<f64>,
    /// Seed of sampling. Default: 42.
    pub seed: Option<u64>,
    /// Words or phrases that are never generated. Default: those of the checkpoint's file.
    pub bad_words: Vec<String>,
    /// Captions per picture: with beams the best first and at most as many as beams, with sampling any number. Default: 1.
    pub num_return_sequences: Option<usize>,
    /// A text that the caption continues, such as a question about the picture. Default: none.
    pub prompt: Option<String>,
}

/// When beam search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// As soon as there are as many finished captions as beams.
    #[default]
    True,
    /// When no live beam is likely to beat the finished captions.
    False,
    /// When no live beam can beat the finished captions.
    Never,
}

names!(EarlyStopping { True => "true", False => "false", Never => "never" });
