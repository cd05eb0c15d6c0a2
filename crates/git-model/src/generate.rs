use std::ops::ControlFlow;

use candle_core::Tensor;
use caption_generation::{Caption, GenerationConfig, Generator, ModelTokens, Progress};

use crate::{Draft, GitForCausalLm, Result};

impl GitForCausalLm {
    /// Captions for a batch of pictures or videos, from [`encode_images`](Self::encode_images)' features
    /// `(batch, tokens, _)`: `num_return_sequences` for the first picture, then those of the second, and so on. With beams,
    /// a picture's captions are sorted best first; with sampling, in the order of their draws.
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

    /// As [`generate`](Self::generate), with a call of `on_token` for each token of each caption. [`ControlFlow::Break`]
    /// ends all captions of the batch where they are.
    ///
    /// A [`draft`](Self::draft) turns on speculative decoding, which gives the same captions and is faster while at most
    /// four sequences (beams included) are live. With more, the draft is not used. A draft of another model of the same
    /// shape, or with other adapters, does no harm but is mostly wrong.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and if the draft belongs to a model of another shape.
    pub fn generate_with(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
        draft: Option<&Draft>,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>> {
        let tokens = self.tokens();
        let generator = Generator::new(&tokens, prompt, config)?;
        if let Some(draft) = draft {
            self.check_draft(draft)?;
        }
        let slots = generator.cached_tokens(image_features.dim(0)?);
        let mut decoding = self.begin_decoding(image_features, slots)?;
        match draft {
            None => generator.generate(&mut decoding, on_token),
            Some(draft) => generator.generate_speculatively(&mut decoding.with_draft(draft)?, on_token),
        }
    }

    /// The properties of the model that prompts and decoding options have to fit.
    pub fn tokens(&self) -> ModelTokens {
        let config = self.config();
        ModelTokens {
            vocab_size: config.vocab_size,
            start_token: config.bos_token_id,
            end_tokens: config.eos_token_id.clone(),
            max_length: config.max_position_embeddings,
        }
    }
}
