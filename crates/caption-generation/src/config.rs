use crate::error::{Error, Result};

/// When beam search stops, as `early_stopping` of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are `num_beams` finished captions.
    Always,
    /// When no live beam can become better than the worst finished caption, judged at the current length.
    #[default]
    Heuristic,
    /// When no live beam can become better than the worst finished caption, judged at the most favourable
    /// length that it could still reach.
    Never,
}

/// How captions are decoded; names and meanings are those of transformers' `GenerationConfig`.
///
/// The default is greedy decoding of at most 40 tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// The largest number of tokens to generate, including the end token. Default: 40.
    pub max_new_tokens: usize,
    /// Tokens to generate before the end token is allowed. Default: 0.
    pub min_new_tokens: usize,
    /// Number of beams; 1 is greedy decoding or sampling. Default: 1.
    pub num_beams: usize,
    /// A finished beam's log-probability is divided by its length to this power. Default: 1.
    pub length_penalty: f32,
    /// When beam search stops. Default: [`EarlyStopping::Heuristic`].
    pub early_stopping: EarlyStopping,
    /// No n-gram of this size occurs twice; 0 allows all. Default: 0.
    pub no_repeat_ngram_size: usize,
    /// The logits of tokens that have occurred are divided by this if positive, and multiplied by it if negative. Default: 1.
    pub repetition_penalty: f32,
    /// Tokens that end a caption; `None` for the model's own. Default: `None`.
    pub eos_token_id: Option<Vec<u32>>,
    /// Token sequences that must not occur, `bad_words_ids` of transformers: a token is forbidden if it would
    /// complete one of them. As in transformers, a sequence applies when prompt and caption are at least as
    /// long as it is, and the end token alone cannot be forbidden. Default: none.
    pub bad_words: Vec<Vec<u32>>,
    /// Normalises scores to log-probabilities again after penalties and forbidden tokens, which changes the
    /// ranking of beams. It does not change the captions of greedy decoding and sampling. Default: `false`.
    pub renormalize_logits: bool,
    /// Captions for each picture: with beams at most `num_beams`, with sampling any number. Default: 1.
    pub num_return_sequences: usize,
    /// Draws tokens at random instead of taking the best. Default: `None`.
    pub sampling: Option<Sampling>,
}

/// How tokens are drawn: `do_sample` of transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The logits are divided by this. Default: 1.
    pub temperature: f32,
    /// Draw from the best k tokens; 0 for all. Default: 50, as in transformers.
    pub top_k: usize,
    /// Draw from the fewest best tokens that together have this probability. Default: 1.
    pub top_p: f32,
    /// Draw from the tokens that have at least this fraction of the best token's probability. Default: 0.
    pub min_p: f32,
    /// Seed of the draws. A draw depends on the seed, on the caption's index among those of its picture and on
    /// the position, and not on the other pictures of the batch. Default: 0.
    pub seed: u64,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 40,
            min_new_tokens: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            eos_token_id: None,
            bad_words: Vec::new(),
            renormalize_logits: false,
            num_return_sequences: 1,
            sampling: None,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl GenerationConfig {
    /// Decoding of the published Pokémon recipe: 2 beams, 40 new tokens, no repeated 2-gram, repetition penalty 1.15, early
    /// stopping.
    pub fn recipe() -> Self {
        Self {
            num_beams: 2,
            no_repeat_ngram_size: 2,
            repetition_penalty: 1.15,
            early_stopping: EarlyStopping::Always,
            ..Self::default()
        }
    }

    /// Checks that each option is in its range and that no options contradict each other.
    ///
    /// # Errors
    /// [`Error::Options`] with every problem.
    pub fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        require(self.max_new_tokens > 0, "max_new_tokens must be at least 1".to_owned());
        require(
            self.min_new_tokens <= self.max_new_tokens,
            format!("min_new_tokens {} is above max_new_tokens {}", self.min_new_tokens, self.max_new_tokens),
        );
        require(self.num_beams > 0, "num_beams must be at least 1".to_owned());
        require(self.num_return_sequences > 0, "num_return_sequences must be at least 1".to_owned());
        let (wanted, beams) = (self.num_return_sequences, self.num_beams);
        require(
            wanted <= beams || self.sampling.is_some(),
            format!("num_return_sequences {wanted} is above num_beams {beams}, without sampling"),
        );
        let penalty = self.repetition_penalty;
        require(penalty > 0.0, format!("repetition_penalty must be above 0, got {penalty}"));
        require(
            self.bad_words.iter().all(|word| !word.is_empty()),
            "bad_words must not hold an empty sequence".to_owned(),
        );
        require(self.length_penalty.is_finite(), "length_penalty must be a number".to_owned());
        if let Some(sampling) = &self.sampling {
            require(self.num_beams == 1, "sampling with beams is not supported: use num_beams 1".to_owned());
            let Sampling { temperature, top_p, min_p, .. } = *sampling;
            require(temperature > 0.0, format!("temperature must be above 0, got {temperature}"));
            require(top_p > 0.0 && top_p <= 1.0, format!("top_p must be in (0, 1], got {top_p}"));
            require((0.0..=1.0).contains(&min_p), format!("min_p must be in [0, 1], got {min_p}"));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Options { problems }) }
    }

    /// The score of a caption of `length` new tokens whose log-probabilities add up to `total`.
    pub(crate) fn normalised(&self, total: f32, length: usize) -> f32 {
        total / (length as f32).powf(self.length_penalty)
    }
}
