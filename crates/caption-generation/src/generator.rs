use std::ops::ControlFlow;

use crate::batch::SearchBatch;
use crate::caption::{Caption, Progress};
use crate::config::GenerationConfig;
use crate::decoder::{CaptionDecoder, SpeculativeDecoder, Step};
use crate::error::{Error, Result};
use crate::next_tokens::NextTokens;
use crate::speculation::Speculation;

/// The properties of a model that prompts and options have to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTokens {
    /// Number of tokens in the vocabulary, and of logits in a row.
    pub vocab_size: usize,
    /// The token that every caption starts with.
    pub start_token: u32,
    /// Tokens that end a caption unless [`GenerationConfig::eos_token_id`] names others. May be empty.
    pub end_tokens: Vec<u32>,
    /// The largest number of text tokens in one sequence, including the prompt.
    pub max_length: usize,
}

/// Generates captions with a [`CaptionDecoder`], from options and a prompt that were checked against its model.
///
/// A picture's captions do not depend on the other pictures of the batch as long as the decoder's logits do not.
#[derive(Clone, Debug)]
pub struct Generator<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    prompt: Vec<u32>,
    vocab_size: usize,
}

impl<'a> Generator<'a> {
    /// A generator of captions that continue `prompt`, whose first token must be the start token; `None` is the start token
    /// alone.
    ///
    /// # Errors
    /// If options contradict each other, the prompt does not begin with the start token, a token is not in the vocabulary,
    /// or prompt and new tokens are more than the model can read.
    pub fn new(model: &'a ModelTokens, prompt: Option<&[u32]>, config: &'a GenerationConfig) -> Result<Self> {
        config.check()?;
        let start = model.start_token;
        let prompt = prompt.map_or_else(|| vec![start], <[u32]>::to_vec);
        let eos = config.eos_token_id.as_ref().unwrap_or(&model.end_tokens).as_slice();
        match prompt.first() {
            None => return Err(Error::EmptyPrompt { start }),
            Some(first) if *first != start => return Err(Error::PromptStart { start, got: *first }),
            Some(_) => {}
        }
        let prompt_tokens = prompt.iter().map(|id| ("prompt token", *id));
        let end_tokens = eos.iter().map(|id| ("end token", *id));
        let bad_words = config.bad_words.iter().flatten().map(|id| ("token of bad_words", *id));
        for (role, id) in prompt_tokens.chain(end_tokens).chain(bad_words) {
            if id as usize >= model.vocab_size {
                return Err(Error::UnknownToken { role, id, vocab_size: model.vocab_size });
            }
        }
        // The model does not read the last token.
        let needed = prompt.len().saturating_add(config.max_new_tokens - 1);
        if needed > model.max_length {
            return Err(Error::TooLong {
                max_new_tokens: config.max_new_tokens,
                prompt: prompt.len(),
                needed,
                max_length: model.max_length,
            });
        }
        Ok(Self { config, eos, prompt, vocab_size: model.vocab_size })
    }

    /// The number of text tokens for which a decoder needs cache slots, for all sequences of a batch of
    /// `pictures` together.
    ///
    /// It suffices if sequences with a common beginning share the slots of that beginning, and if the slots of
    /// steps that were not accepted are reused.
    pub fn cached_tokens(&self, pictures: usize) -> usize {
        let sequences = pictures * self.config.num_beams.max(self.config.num_return_sequences);
        pictures * self.prompt.len() + sequences * (self.config.max_new_tokens - 1)
    }

    /// Captions for the pictures of a new `decoder`: `num_return_sequences` for the first picture, then those of the second,
    /// and so on. With beams, a picture's captions are sorted best first; with sampling, in the order of their
    /// draws.
    ///
    /// `on_token` is called for each new token of each caption; [`ControlFlow::Break`] ends all captions of the
    /// batch at their current length. Afterwards, the decoder's live sequences are unspecified.
    ///
    /// # Errors
    /// The decoder's errors, and [`Error::NotNumbers`], [`Error::LogitCount`] or [`Error::BestTokens`] if its logits cannot be
    /// used.
    pub fn generate<D: CaptionDecoder>(
        &self,
        decoder: &mut D,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>, D::Error> {
        self.run(decoder, on_token, |decoder, searches, step| {
            decoder.reorder(&step.parents)?;
            append(decoder, searches, &step.tokens)
        })
    }

    /// The captions of [`generate`](Self::generate), by speculative decoding. It is faster as long as so few
    /// sequences are live that several steps fit in [`max_rows`](SpeculativeDecoder::max_rows).
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_speculatively<D: SpeculativeDecoder>(
        &self,
        decoder: &mut D,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>, D::Error> {
        let mut speculation = Speculation::new(self.vocab_size);
        self.run(decoder, on_token, |decoder, searches, step| {
            speculation.logits(decoder, searches, step).map(NextTokens::All)
        })
    }

    /// Generates captions; `read` returns the next tokens after a step that the searches have chosen.
    fn run<D: CaptionDecoder>(
        &self,
        decoder: &mut D,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
        mut read: impl FnMut(&mut D, &SearchBatch<'_>, Step) -> Result<NextTokens, D::Error> + Send,
    ) -> Result<Vec<Caption>, D::Error> {
        let pictures = decoder.sequences();
        let mut searches = SearchBatch::new(pictures, &self.prompt, self.config, self.eos, self.vocab_size);
        if pictures == 0 {
            return Ok(Vec::new());
        }
        let mut next = on_pool(|| self.read_prompt(decoder, &mut searches))?;
        let mut tokens = self.prompt.len();
        while searches.report(on_token).is_continue() && !next.tokens.is_empty() {
            tokens += 1;
            next = on_pool(|| {
                let sequences = next.tokens.len();
                let mut next = read(decoder, &searches, next)?;
                next.check(sequences, self.vocab_size, tokens)?;
                Ok::<_, D::Error>(searches.advance(&mut next))
            })?;
        }
        Ok(searches.captions())
    }

    /// Reads the prompt once for each picture, then reorders the decoder so that it has one sequence for each
    /// live sequence of the searches.
    fn read_prompt<D: CaptionDecoder>(
        &self,
        decoder: &mut D,
        searches: &mut SearchBatch<'_>,
    ) -> Result<Step, D::Error> {
        let pictures = decoder.sequences();
        let next = append(decoder, searches, &self.prompt.repeat(pictures))?;
        next.check(pictures, self.vocab_size, self.prompt.len())?;
        let rows = searches.pictures();
        decoder.reorder(&rows)?;
        Ok(searches.advance(&mut next.select(&rows, self.vocab_size)))
    }
}

/// Appends tokens, and returns as many of the logits that follow as the searches need.
fn append<D: CaptionDecoder>(
    decoder: &mut D,
    searches: &SearchBatch<'_>,
    tokens: &[u32],
) -> Result<NextTokens, D::Error> {
    match searches.needed_logits() {
        Some(count) => decoder.append_for_best(tokens, count),
        None => decoder.append(tokens).map(NextTokens::All),
    }
}

/// Runs `f` on a thread of rayon's pool. The many short parallel operations of a step are then shared with threads that are
/// awake, instead of waking one from outside for each operation.
fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
