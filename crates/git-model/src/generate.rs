use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use caption_model::{
    Caption, CaptionModel, Draft, GenerationConfig, LayerMap, ModelTokens, Progress, TextDecoder,
};
use train_ops::{ForwardContext, KeyValueCache};

use crate::decoder::DecoderWithHead;
use crate::{GitForCausalLm, Result};

/// Sequences of GIT in the middle of being decoded.
pub type Decoding<'a> = caption_model::Decoding<'a, GitForCausalLm>;

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
        CaptionModel::generate(self, image_features, prompt, config)
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
        CaptionModel::generate_with(self, image_features, prompt, config, draft, on_token)
    }

    /// Begins to decode: one sequence without text for each picture, whose keys and values are computed here, and cache
    /// slots for `slots` text tokens of all sequences together.
    ///
    /// # Errors
    /// If `image_features` are not `(batch, tokens, vision_hidden)`.
    pub fn begin_decoding(&self, image_features: &Tensor, slots: usize) -> Result<Decoding<'_>> {
        Decoding::new(self, image_features, slots)
    }

    /// The properties of the model that prompts and decoding options have to fit.
    pub fn tokens(&self) -> ModelTokens {
        self.config().tokens()
    }

    /// A draft of the model with its adapters as they are now, for [`generate_with`](Self::generate_with).
    ///
    /// # Errors
    /// If the model is not on the CPU, as 8-bit weights exist only there.
    pub fn draft(&self) -> Result<Draft> {
        CaptionModel::draft(self)
    }

    /// Number of weights that a decoding step multiplies by: those of the decoder's layers and of the head.
    pub fn decoder_weights(&self) -> usize {
        let config = self.config();
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        config.num_hidden_layers * (4 * width * width + 2 * width * inner) + width * config.vocab_size
    }
}

impl CaptionModel for GitForCausalLm {
    fn device(&self) -> &Device {
        self.device()
    }

    fn tokens(&self) -> ModelTokens {
        self.tokens()
    }

    fn image_size(&self) -> usize {
        self.config().vision_config.image_size
    }

    fn feature_shape(&self) -> (usize, usize) {
        (self.config().vision_config.tokens(), self.config().vision_config.hidden_size)
    }

    fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize {
        self.config().saved_activations(caption, vision_trains)
    }

    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.encode_images(pixel_values, ctx)
    }

    fn release_image_encoder(&mut self) {
        self.release_image_encoder();
    }

    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        self.smoothed_loss(image_features, input_ids, labels, label_smoothing, ctx)
    }

    fn embed(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let ctx = ForwardContext::inference();
        let (rows, new) = positions.dims2()?;
        let positions = self.position_embeddings.detach().index_select(&positions.flatten_all()?, 0)?;
        self.embed(input_ids, &positions.reshape((rows, new, ()))?, &ctx)
    }

    fn caches(&self, image_features: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        self.decoder.caches(&self.project(image_features, &ForwardContext::inference())?, slots)
    }

    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>> {
        Ok(Box::new(DecoderWithHead { decoder: self.decoder.map_linear(map)?, lm_head: map(&self.lm_head)? }))
    }

    fn decoder_weights(&self) -> usize {
        self.decoder_weights()
    }
}
