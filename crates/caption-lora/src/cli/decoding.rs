use clap::Args;

use super::numbers::{count, finite, positive, positive_share, share, temperature};
use crate::options::{Decoding, EarlyStopping};

/// Decoding options, with the names and meanings of Hugging Face's GenerationConfig. An option that is not
/// given is taken from the checkpoint's generation_config.json, else it has the recipe's default.
#[derive(Debug, Clone, Args)]
#[command(
    next_help_heading = "Decoding (options that are not given come from the checkpoint's generation_config.json, else they have their defaults)"
)]
pub(super) struct DecodingFlags {
    /// Number of beams; 1 is greedy decoding [default: 2, and 1 with --do-sample]
    #[arg(long, value_name = "BEAMS", value_parser = count)]
    num_beams: Option<usize>,
    /// Maximum length in tokens, excluding the prompt [default: 40]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    max_new_tokens: Option<usize>,
    /// Minimum length in tokens, excluding the end token and the prompt [default: 0]
    #[arg(long, value_name = "TOKENS")]
    min_new_tokens: Option<usize>,
    /// Beams are ranked by log-probability / length^penalty: above 0 favours long captions, below 0 short
    /// ones [default: 1]
    #[arg(long, value_name = "PENALTY", value_parser = finite, allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// Never repeat a sequence of this many tokens; 0 allows repetition [default: 2]
    #[arg(long, value_name = "TOKENS")]
    no_repeat_ngram_size: Option<usize>,
    /// Divides the scores of tokens that have occurred already: above 1 discourages repetition, 1 has no
    /// effect [default: 1.15]
    #[arg(long, value_name = "PENALTY", value_parser = positive)]
    repetition_penalty: Option<f64>,
    /// When beam search stops [default: true]
    #[arg(long, value_enum)]
    early_stopping: Option<EarlyStopping>,
    /// Sample each token by its probability; --do-sample=false turns it off [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    do_sample: Option<bool>,
    /// Divides the scores before sampling: below 1 favours likely tokens more, above 1 evens out the
    /// probabilities [default: 1]
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from this many likeliest tokens; 0 for all [default: 50]
    #[arg(long, value_name = "TOKENS")]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens that together reach this probability [default: 1]
    #[arg(long, value_name = "P", value_parser = positive_share)]
    top_p: Option<f64>,
    /// Sample from the tokens that are at least this share as probable as the likeliest one; 0 for all
    /// [default: 0]
    #[arg(long, value_name = "P", value_parser = share)]
    min_p: Option<f64>,
    /// Seed of sampling [default: 42]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Never generate these words or phrases: separated by commas, or one per flag
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    bad_words: Vec<String>,
    /// Captions per picture: with beams the best first and at most as many as beams, with sampling any number
    /// [default: 1]
    #[arg(long, value_name = "CAPTIONS", value_parser = count)]
    num_return_sequences: Option<usize>,
    /// A text that the caption continues, such as a question about the picture
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
}

same_fields! {
    DecodingFlags => Decoding {
        num_beams,
        max_new_tokens,
        min_new_tokens,
        length_penalty,
        no_repeat_ngram_size,
        repetition_penalty,
        early_stopping,
        do_sample,
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        bad_words,
        num_return_sequences,
        prompt,
    }
}

#[cfg(test)]
mod tests;
