use std::fmt::Debug;
use std::ops::ControlFlow;

use candle_core::Tensor;
use caption_generation::{Caption, GenerationConfig, Generator, ModelTokens, Progress};
use train_ops::{ForwardContext, KeyValueCache, int8_snapshot};

use crate::{
    CaptionConfig, Decoding, DecodingGraphs, Draft, Error, LayerMap, Result, TextBatch, TextDecoder,
};

/// The input of decoding.
#[derive(Clone, Debug)]
pub struct DecoderInput<'a> {
    /// The states whose keys and values [`caches`](CaptionModel::caches) computes, `(pictures, tokens, width)`.
    pub states: Tensor,
    /// The tokens that the decoder continues; `None` is the start token alone.
    pub prompt: Option<&'a [u32]>,
    /// The prompt, if an encoder has read it instead of the decoder. The decoder then begins with the start
    /// token.
    pub encoded: Option<&'a [u32]>,
}

/// An image-captioning model of any kind, with its language-modelling head.
///
/// Captioning has two steps: [`encode_images`](Self::encode_images), and the decoder with text ([`loss`](Self::loss),
/// [`generate`](Self::generate)). If the encoder is frozen, the first step is needed only once for each picture.
pub trait CaptionModel: Debug + Send + Sync {
    /// The device of the model's tensors.
    fn device(&self) -> &candle_core::Device;

    /// The configuration that the model was built with.
    fn caption_config(&self) -> &dyn CaptionConfig;

    /// The properties of the model that prompts and decoding options have to fit.
    fn tokens(&self) -> ModelTokens {
        self.caption_config().tokens()
    }

    /// The vision encoder's features, `(batch, tokens, vision_hidden)`, of pictures `(batch, channels, size, size)`.
    ///
    /// # Errors
    /// If `pixel_values` has another shape, or the encoder was released.
    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor>;

    /// Frees the vision encoder, once the features of every picture are cached. After this,
    /// [`encode_images`](Self::encode_images) is an error.
    fn release_image_encoder(&mut self);

    /// The sum of the cross entropies of all targets, and the number of targets.
    ///
    /// `image_features` come from [`encode_images`](Self::encode_images), a picture for each row of `input_ids`
    /// `(batch, text)`, whose padding is at the end. `labels` `(batch, text)` are the input ids, with -100 or any other
    /// negative number at positions without a target, such as padding; they are shifted here, once.
    ///
    /// # Errors
    /// If shapes do not fit, a token is not in the vocabulary, or the text is longer than the model has positions.
    fn loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        self.smoothed_loss(image_features, input_ids, labels, 0.0, ctx)
    }

    /// [`loss`](Self::loss) with label smoothing: `label_smoothing`, in `[0, 1)`, is the share of each target
    /// that is spread over the whole vocabulary (see [`train_ops::cross_entropy_sum`]). The shapes are those of
    /// `loss`.
    ///
    /// # Errors
    /// As `loss`, and if `label_smoothing` is outside its range.
    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)>;

    /// The text of a training batch as a pass takes it from the host. `input_ids` and `labels` are those of [`loss`](Self::loss). A
    /// model that separates rows into several texts pads each to a multiple of `multiple` tokens, as far as it has positions, so that a
    /// run has few shapes.
    ///
    /// # Errors
    /// As `loss`.
    fn text_batch(&self, input_ids: &Tensor, labels: &[Vec<i64>], _multiple: usize) -> Result<TextBatch> {
        TextBatch::captions(input_ids, labels)
    }

    /// [`smoothed_loss`](Self::smoothed_loss) of a [`text_batch`](Self::text_batch). All that the launches of the pass read from the
    /// host is in [`TextBatch::numbers`].
    ///
    /// # Errors
    /// As `smoothed_loss`.
    fn text_loss(
        &self,
        image_features: &Tensor,
        text: &TextBatch,
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let captions = text.tensors(self.device())?;
        let none = || Error::Shape { input: "texts", expected: "at least one".to_owned(), got: vec![0] };
        let captions = captions.last().ok_or_else(none)?;
        self.smoothed_loss(image_features, captions, &text.labels, label_smoothing, ctx)
    }

    /// The decoder's input in decoding, `(rows, new, hidden)`: the embeddings of `input_ids` `(rows, new)` at the text
    /// positions `positions` of the same shape.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    fn embed(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor>;

    /// The decoder's input, for pictures with the features `image_features` `(pictures, tokens, vision_hidden)`
    /// and their common `prompt`, from its start token on. By default, the decoder attends to the features and
    /// continues the prompt. A model with an encoder for the prompt returns the states of that encoder.
    ///
    /// # Errors
    /// If the prompt or the features do not fit the model.
    fn decoder_input<'a>(
        &self,
        image_features: &Tensor,
        prompt: Option<&'a [u32]>,
    ) -> Result<DecoderInput<'a>> {
        Ok(DecoderInput { states: image_features.clone(), prompt, encoded: None })
    }

    /// A cache for each decoder layer with the keys and values of `states`, which come from
    /// [`decoder_input`](Self::decoder_input), and slots for `slots` text tokens.
    ///
    /// # Errors
    /// If `states` have another shape.
    fn caches(&self, states: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>>;

    /// A copy of the text decoder with its head, with `map` applied to each of its linear layers.
    ///
    /// # Errors
    /// The errors of `map`.
    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>>;

    /// The recorded decoding steps of the model, with [`LoadOptions::decoding_graphs`](crate::LoadOptions::decoding_graphs).
    /// Default: none.
    fn decoding_graphs(&self) -> Option<&DecodingGraphs> {
        None
    }

    /// A draft of the model with the current state of its adapters, for [`generate_with`](Self::generate_with).
    ///
    /// # Errors
    /// If the model is not on the CPU: 8-bit weights are supported only there.
    fn draft(&self) -> Result<Draft> {
        if !self.device().is_cpu() {
            return Err(Error::DraftDevice);
        }
        Ok(Draft { decoder: self.text_decoder(int8_snapshot)? })
    }

    /// Captions for a batch of pictures, from [`encode_images`](Self::encode_images)' features `(batch, tokens, _)`:
    /// `num_return_sequences` for the first picture, then those of the second, and so on. With beams, a picture's captions
    /// are sorted best first; with sampling, in the order of their draws.
    ///
    /// A caption continues `prompt`, whose first token must be the start token; `None` is the start token alone. A
    /// picture's captions do not depend on the others in the batch. A model for questions answers the prompt: a caption's ids
    /// are then those of the question and of its answer.
    ///
    /// # Errors
    /// If the options contradict each other, the prompt does not begin with the start token, a token is not in the
    /// vocabulary, or prompt and new tokens are more than the model has positions for; and if the model's logits are not
    /// numbers.
    fn generate(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
    ) -> Result<Vec<Caption>> {
        self.generate_with(image_features, prompt, config, None, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`generate`](Self::generate), with a call of `on_token` for each token of each caption.
    /// [`ControlFlow::Break`] ends all captions of the batch at their current length.
    ///
    /// A [`draft`](Self::draft) turns on speculative decoding, which gives the same captions and is faster
    /// while at most four sequences (beams included) are live. With more, the draft is not used. A draft of
    /// another model of the same shape, or with other adapters, does not change the captions, but few of its
    /// proposals are accepted.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and if the draft belongs to a model of another shape.
    fn generate_with(
        &self,
        image_features: &Tensor,
        prompt: Option<&[u32]>,
        config: &GenerationConfig,
        draft: Option<&Draft>,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Caption>> {
        let tokens = self.tokens();
        let DecoderInput { states, prompt, encoded } = self.decoder_input(image_features, prompt)?;
        let generator = Generator::new(&tokens, prompt, config)?;
        let slots = generator.cached_tokens(states.dim(0)?);
        let mut decoding = Decoding::new(self, &states, slots)?;
        // The decoder's text begins with the start token, as the prompt does.
        let whole = |ids: &[u32]| encoded.map(|prompt| [prompt, ids.get(1..).unwrap_or_default()].concat());
        let on_token = &mut |progress: Progress<'_>| match whole(progress.ids) {
            Some(ids) => on_token(Progress { ids: &ids, ..progress }),
            None => on_token(progress),
        };
        let mut captions = match draft {
            None => generator.generate(&mut decoding, on_token)?,
            Some(draft) => generator.generate_speculatively(&mut decoding.with_draft(draft)?, on_token)?,
        };
        for caption in &mut captions {
            if let Some(ids) = whole(&caption.ids) {
                caption.ids = ids;
            }
        }
        Ok(captions)
    }
}
