//! Decoding of captions: greedy, sampling and beam search over cached keys and values, by guesses where a draft makes them.

mod beam;
mod config;
mod processors;
mod searches;
mod single;
mod speculation;
mod warpers;

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

pub use config::{EarlyStopping, GenerationConfig, Sampling};

use self::searches::Searches;
use self::speculation::Speculation;
use crate::{Draft, Error, GitForCausalLm, Result};

/// What was generated for a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// The token ids: the prompt (the start token if none was given), the new tokens, and the end token if it was reached.
    pub ids: Vec<u32>,
    /// The sum of the new tokens' log-probabilities `/ number of new tokens ^ length_penalty`, the end token counted, as
    /// `sequences_scores` of transformers. Without beams they are log-probabilities in the distributions that each token
    /// was taken from: after penalties and forbidden tokens, and of a caption that was drawn, after temperature and cuts.
    pub score: f32,
}

/// How far a caption has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The picture's number in the batch.
    pub picture: usize,
    /// Which of the captions that are drawn for the picture; 0 without sampling.
    pub sequence: usize,
    /// Its tokens from the first of the prompt to the newest. With beams those of the best one now, which another may
    /// overtake.
    pub ids: &'a [u32],
}

impl GitForCausalLm {
    /// Captions for a batch of pictures or videos, from [`encode_images`](Self::encode_images)' features
    /// `(batch, tokens, _)`: `num_return_sequences` for the first, then those of the second, and so on. A picture's are
    /// best first where they come of beams, and in the order of their draws where they are drawn.
    ///
    /// A caption continues `prompt`, whose first token must be the start token; `None` is the start token alone. A
    /// picture's captions do not depend on the others in the batch.
    ///
    /// # Errors
    /// If the options contradict each other, the prompt does not begin with the start token, a token is not in the
    /// vocabulary, or prompt and new tokens are more than the model has positions for; and if the model's logits are not
    /// numbers.
    pub fn generate(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<Caption>> {
        self.generate_with(image_features, prompt, config, None, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`generate`](Self::generate), with a call for each token of each caption. [`ControlFlow::Break`] ends all
    /// captions of the batch where they are.
    ///
    /// With a [`draft`](Self::draft), captions come sooner where up to four sequences are followed at a time, beams counted, and
    /// are the same; more sequences are followed without it. A draft of another model of the same shape, or of other adapters,
    /// does no harm but guess badly.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and if the draft is of a model of another shape.
    pub fn generate_with(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
        draft: Option<&Draft>,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>> {
        config.check()?;
        if let Some(draft) = draft {
            self.check_draft(draft)?;
        }
        let start = [self.config().bos_token_id];
        let prompt = prompt.unwrap_or(&start);
        let eos = config.eos_token_id.as_ref().unwrap_or(&self.config().eos_token_id).as_slice();
        self.check_tokens(prompt, eos, config)?;
        let pictures = image_features.dim(0)?;
        let mut searches = Searches::new(pictures, prompt, config, eos, self.config().vocab_size);

        // The prompt is read once a picture. From then on there is a row for each sequence that is followed.
        let rows = searches.pictures();
        // Guesses need no more places: they end where captions must, and those that are wrong give theirs back.
        let places = pictures * prompt.len() + rows.len() * (config.max_new_tokens - 1);
        let mut decoding = self.begin_decoding(image_features, places)?;
        let ids = Tensor::from_vec(prompt.repeat(pictures), (pictures, prompt.len()), self.device())?;
        let mut next = train_ops::on_pool(|| -> Result<_> {
            let logits = self.next_logits(&ids, &mut decoding)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            let mut logits: Vec<f32> = rows.iter().flat_map(|picture| &logits[*picture]).copied().collect();
            check_numbers(&logits, prompt.len())?;
            Ok(searches.advance(&mut logits))
        })?;
        decoding.reorder(&rows)?;
        decoding.reorder(&next.parents)?;

        let mut speculation = Speculation::new(draft);
        while searches.report(on_token).is_continue() && !next.tokens.is_empty() {
            next = train_ops::on_pool(|| -> Result<_> {
                let mut step = speculation.read(self, &searches, next, &decoding)?;
                decoding.rows = step.rows;
                check_numbers(&step.logits, decoding.rows.tokens())?;
                Ok(searches.advance(&mut step.logits))
            })?;
            decoding.reorder(&next.parents)?;
        }
        Ok(searches.captions())
    }

    fn check_tokens(&self, prompt: &[u32], eos: &[u32], config: &GenerationConfig) -> Result<()> {
        let model = self.config();
        let refuse = |problem| Err(Error::Generation(problem));
        let start = model.bos_token_id;
        match prompt.first() {
            None => return refuse("the prompt is empty; it must hold at least the start token".to_owned()),
            Some(first) if *first != start => {
                return refuse(format!(
                    "the prompt must begin with the start token, {start}, and not with {first}"
                ));
            }
            Some(_) => {}
        }
        let mut given = prompt.iter().chain(eos).chain(config.bad_words.iter().flatten());
        if let Some(id) = given.find(|id| **id as usize >= model.vocab_size) {
            let end = if eos.contains(id) { "end " } else { "" };
            return refuse(format!(
                "{end}token {id} is not in the model's vocabulary of {}",
                model.vocab_size
            ));
        }
        // The last token is never fed back.
        let got = prompt.len().saturating_add(config.max_new_tokens - 1);
        let max = model.max_position_embeddings;
        if got > max {
            return refuse(format!(
                "max_new_tokens {} after a prompt of {} tokens needs {got} positions, but the model has {max}",
                config.max_new_tokens,
                prompt.len()
            ));
        }
        Ok(())
    }
}

/// Refuses `logits` of which the best cannot be told, those with NaN or +∞; -∞, of a bias for instance, forbids a token.
fn check_numbers(logits: &[f32], tokens: usize) -> Result<()> {
    // All are looked at, which vectors do faster than to stop at the first.
    match logits.iter().fold(true, |all, logit| all & (*logit < f32::INFINITY)) {
        true => Ok(()),
        false => Err(Error::NotNumbers { tokens }),
    }
}
