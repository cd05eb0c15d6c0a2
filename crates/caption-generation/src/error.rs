/// The errors of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that are out of range or contradict each other.
    #[error("generation: {}", problems.join("; "))]
    Options {
        /// One sentence for each problem; it names the option and its value.
        problems: Vec<String>,
    },
    /// A prompt without tokens.
    #[error("generation: the prompt is empty; it must hold at least the start token, {start}")]
    EmptyPrompt {
        /// The model's start token.
        start: u32,
    },
    /// A prompt that does not begin with the model's start token.
    #[error("generation: the prompt must begin with the start token, {start}, and not with {got}")]
    PromptStart {
        /// The model's start token.
        start: u32,
        /// The first token of the prompt.
        got: u32,
    },
    /// A token that is not in the model's vocabulary.
    #[error("generation: {role} {id} is not in the model's vocabulary of {vocab_size}")]
    UnknownToken {
        /// Where the token was given: `prompt token`, `end token` or `token of bad_words`.
        role: &'static str,
        /// The token.
        id: u32,
        /// Number of tokens in the vocabulary.
        vocab_size: usize,
    },
    /// Captions that would be longer than the model allows.
    #[error(
        "generation: max_new_tokens {max_new_tokens} after a prompt of {prompt} tokens needs {needed} positions, but the model \
         has {max_length}"
    )]
    TooLong {
        /// The option.
        max_new_tokens: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions that the model would need.
        needed: usize,
        /// Positions that it has.
        max_length: usize,
    },
    /// Logits with NaN or plus infinity, among which no token is the best.
    #[error(
        "generation: the logits after {tokens} tokens are not numbers: the weights, an adapter or the image features hold NaN or \
         infinity, or a sum left the range of f32; compare with other files, or another picture"
    )]
    NotNumbers {
        /// Tokens of the longest caption so far, the start token included.
        tokens: usize,
    },
    /// A decoder that returned too few or too many logits, which is a fault of its
    /// [`CaptionDecoder`](crate::CaptionDecoder) implementation.
    #[error(
        "generation: the decoder returned {got} logits for {sequences} sequences and a vocabulary of {vocab_size}"
    )]
    LogitCount {
        /// Logits that were returned.
        got: usize,
        /// The number of live sequences.
        sequences: usize,
        /// Logits that each of them should have.
        vocab_size: usize,
    },
    /// A decoder returned too few or too many of the best tokens, or tokens that are not in the vocabulary.
    /// This is a fault of its [`CaptionDecoder`](crate::CaptionDecoder) implementation.
    #[error(
        "generation: the decoder returned {got} tokens as the best {count} for each of {sequences} sequences"
    )]
    BestTokens {
        /// Its field `count`: the number of tokens of each sequence.
        count: usize,
        /// The number of live sequences.
        sequences: usize,
        /// The number of tokens that were returned.
        got: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
