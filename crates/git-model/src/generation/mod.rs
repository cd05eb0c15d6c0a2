//! Decoding of captions: greedy, sampling and beam search over cached keys and values.

mod beam;
mod config;
mod processors;
mod single;
mod warpers;

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

pub use config::{EarlyStopping, GenerationConfig, Sampling};

use self::beam::BeamSearch;
use self::single::SingleSearch;
use crate::{Error, GitForCausalLm, Result};

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

/// The search for captions of one picture: which sequences it wants continued, and what it makes of their scores.
trait Search: Send {
    /// Sequences that it follows at a time.
    fn rows(&self) -> usize;

    /// Takes the logits that follow each of its sequences, `(rows, vocabulary)`, and may overwrite them; returns each new
    /// sequence's last token and the row that it continues.
    fn advance(&mut self, logits: &mut [f32]) -> Vec<Step>;

    fn is_done(&self) -> bool;

    /// The best sequence so far.
    fn best(&self) -> &[u32];

    /// What was found; of several, the best first.
    fn captions(&self) -> Vec<Caption>;
}

struct Step {
    parent: usize,
    token: u32,
}

/// A search and what it is for.
struct Job<'a> {
    picture: usize,
    sequence: usize,
    search: Box<dyn Search + 'a>,
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
    /// vocabulary, or prompt and new tokens are more than the model has positions for.
    pub fn generate(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<Caption>> {
        self.generate_with(image_features, prompt, config, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`generate`](Self::generate), with a call for each token of each caption. [`ControlFlow::Break`] ends all
    /// captions of the batch where they are.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_with(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>> {
        config.check()?;
        let start = [self.config().bos_token_id];
        let prompt = prompt.unwrap_or(&start);
        let eos = config.eos_token_id.as_ref().unwrap_or(&self.config().eos_token_id).as_slice();
        self.check_tokens(prompt, eos, config)?;
        let pictures = image_features.dim(0)?;
        let mut jobs: Vec<Job<'_>> =
            (0..pictures).flat_map(|picture| jobs(picture, prompt, config, eos)).collect();

        // The prompt is read once a picture. From then on there is a row for each sequence that is followed: those of the
        // first job, those of the second, and so on; jobs that are done have none.
        let mut rows: Vec<usize> = jobs.iter().flat_map(|job| vec![job.picture; job.search.rows()]).collect();
        let places = pictures * prompt.len() + rows.len() * (config.max_new_tokens - 1);
        let mut decoding = self.begin_decoding(image_features, places)?;
        let mut input = vec![prompt.to_vec(); pictures];
        let vocabulary = self.config().vocab_size;
        while !input.is_empty() {
            let new = input[0].len();
            let ids = Tensor::from_vec(input.concat(), (input.len(), new), self.device())?;
            let mut active: Vec<&mut Job<'_>> = jobs.iter_mut().filter(|job| !job.search.is_done()).collect();
            let steps = train_ops::on_pool(|| -> Result<Vec<Vec<Step>>> {
                let logits = self.next_logits(&ids, &mut decoding)?.to_dtype(DType::F32)?;
                let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
                if rows.len() * vocabulary != logits.len() {
                    logits = rows
                        .iter()
                        .flat_map(|row| &logits[row * vocabulary..][..vocabulary])
                        .copied()
                        .collect();
                }
                Ok(advance(&mut active, &mut logits, vocabulary))
            })?;

            let mut parents = Vec::new();
            let mut first = 0;
            input.clear();
            for (job, steps) in active.into_iter().zip(steps) {
                let rows = &rows[first..first + job.search.rows()];
                first += rows.len();
                if !job.search.is_done() {
                    parents.extend(steps.iter().map(|step| rows[step.parent]));
                    input.extend(steps.iter().map(|step| vec![step.token]));
                }
                let Job { picture, sequence, ref search } = *job;
                if on_token(Progress { picture, sequence, ids: search.best() }).is_break() {
                    return Ok(jobs.iter().flat_map(|job| job.search.captions()).collect());
                }
            }
            rows = (0..input.len()).collect();
            decoding.reorder(&parents)?;
        }
        Ok(jobs.iter().flat_map(|job| job.search.captions()).collect())
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

/// What each job goes on with, from the logits of the sequences that it follows: those of the first job, then those of the
/// second, and so on. No job knows of another, so that they look at their logits side by side.
fn advance(jobs: &mut [&mut Job<'_>], mut logits: &mut [f32], vocabulary: usize) -> Vec<Vec<Step>> {
    let of_jobs = jobs.iter_mut().map(|job| {
        let (of_job, rest) = std::mem::take(&mut logits).split_at_mut(job.search.rows() * vocabulary);
        logits = rest;
        (job, of_job)
    });
    let of_jobs: Vec<_> = of_jobs.collect();
    of_jobs.into_par_iter().map(|(job, logits)| job.search.advance(logits)).collect()
}

/// The searches for the captions of one picture.
fn jobs<'a>(picture: usize, prompt: &[u32], config: &'a GenerationConfig, eos: &'a [u32]) -> Vec<Job<'a>> {
    if config.num_beams > 1 {
        let search = Box::new(BeamSearch::new(config, eos, prompt));
        return vec![Job { picture, sequence: 0, search }];
    }
    let single = |sequence| -> Box<dyn Search + 'a> {
        Box::new(SingleSearch::new(config, eos, prompt, sequence as u64))
    };
    (0..config.num_return_sequences)
        .map(|sequence| Job { picture, sequence, search: single(sequence) })
        .collect()
}
