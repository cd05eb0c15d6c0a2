//! Decoding of captions: greedy, sampling and beam search over cached keys and values.

mod beam;
mod config;
mod processors;
mod single;

use candle_core::{DType, Tensor};

pub use config::{EarlyStopping, GenerationConfig, Sampling};

use self::beam::BeamSearch;
use self::single::SingleSearch;
use crate::decoder::KeyValueCache;
use crate::{Error, GitForCausalLm, Result};

/// The search for one picture's caption: which sequences it wants continued, and what it makes of their scores.
trait Search {
    /// Sequences that it follows at a time.
    fn rows(&self) -> usize;

    /// Takes the logits that follow each of its sequences; returns each new sequence's last token and the row that it
    /// continues.
    fn advance(&mut self, logits: Vec<Vec<f32>>) -> Vec<Step>;

    fn is_done(&self) -> bool;

    /// The best sequence: prompt, caption, and the end token if it was reached.
    fn result(&self) -> Vec<u32>;
}

struct Step {
    parent: usize,
    token: u32,
}

impl GitForCausalLm {
    /// Captions for a batch of pictures, from [`encode_images`](Self::encode_images)' features `(batch, tokens, _)`.
    ///
    /// Each caption is its token ids from the start token (or `prompt`, which then must begin with it) to the end
    /// token, if that was reached. A picture's caption does not depend on the others in the batch.
    ///
    /// # Errors
    /// If the options contradict each other, or prompt and new tokens are more than the model has positions for.
    pub fn generate(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<Vec<u32>>> {
        config.check()?;
        let start = [self.config().bos_token_id];
        let prompt = prompt.unwrap_or(&start);
        self.check_prompt(prompt, config)?;
        let eos = config.eos_token_id.as_ref().unwrap_or(&self.config().eos_token_id).as_slice();
        let pictures = image_features.dim(0)?;
        let mut searches: Vec<Box<dyn Search + '_>> = (0..pictures)
            .map(|picture| -> Box<dyn Search + '_> {
                if config.num_beams > 1 {
                    Box::new(BeamSearch::new(config, eos, prompt))
                } else {
                    Box::new(SingleSearch::new(config, eos, prompt, picture))
                }
            })
            .collect();

        // Row by row: the sequences of picture 0, those of picture 1, and so on; pictures that are done have none.
        let rows_of = |search: &dyn Search| if search.is_done() { 0 } else { search.rows() };
        let owners: Vec<u32> =
            (0u32..).zip(&searches).flat_map(|(picture, search)| vec![picture; search.rows()]).collect();
        let images = self.image_keys_values(image_features)?;
        let mut cache = KeyValueCache::new(&images, &Tensor::new(owners.as_slice(), self.device())?)?;
        drop(images);
        let mut input = vec![prompt.to_vec(); owners.len()];
        let mut past = 0;
        while !input.is_empty() {
            let new = input[0].len();
            let ids = Tensor::from_vec(input.concat(), (input.len(), new), self.device())?;
            let logits = self.next_logits(&ids, past, &mut cache)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            past += new;

            let mut logits = logits.into_iter();
            let (mut parents, mut first_row) = (Vec::new(), 0);
            input.clear();
            for search in &mut searches {
                let rows = rows_of(search.as_ref());
                if rows == 0 {
                    continue;
                }
                let steps = search.advance(logits.by_ref().take(rows).collect());
                if !search.is_done() {
                    parents.extend(steps.iter().map(|step| (first_row + step.parent) as u32));
                    input.extend(steps.iter().map(|step| vec![step.token]));
                }
                first_row += rows;
            }
            if !input.is_empty() && !parents.iter().copied().eq(0..first_row as u32) {
                cache.reorder(&Tensor::new(parents, self.device())?)?;
            }
        }
        Ok(searches.iter().map(|search| search.result()).collect())
    }

    fn check_prompt(&self, prompt: &[u32], config: &GenerationConfig) -> Result<()> {
        let vocabulary = self.config().vocab_size;
        if prompt.is_empty() {
            return Err(Error::Generation(
                "the prompt is empty; it must hold at least the start token".to_owned(),
            ));
        }
        let given = prompt.iter().chain(config.eos_token_id.iter().flatten());
        if let Some(id) = given.copied().find(|id| *id as usize >= vocabulary) {
            let problem = format!("token {id} is not in the model's vocabulary of {vocabulary}");
            return Err(Error::Generation(problem));
        }
        // The last token is never fed back.
        let (got, max) = (prompt.len() + config.max_new_tokens - 1, self.config().max_position_embeddings);
        if got > max { Err(Error::TooLong { got, max }) } else { Ok(()) }
    }
}
