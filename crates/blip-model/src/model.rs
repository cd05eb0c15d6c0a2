use candle_core::{DType, Device, Tensor};
use caption_model::{
    CaptionCheckpoint as _, CaptionModel, LayerMap, Loader, ModelTokens, ShiftedLabels, TextDecoder,
    WordEmbedding,
};
use train_ops::{Dropout, ForwardContext, KeyValueCache, LayerBuilder, LayerNorm, linear_cross_entropy_sum};

use crate::decoder::Decoder;
use crate::schema::TEXT;
use crate::{BlipConfig, Checkpoint, Error, LoadOptions, Result, VisionEncoder};

/// Salesforce's BLIP for captioning (Li et al., 2022, <https://arxiv.org/abs/2201.12086>), as transformers'
/// `BlipForConditionalGeneration` computes it.
///
/// [`CaptionModel`] has its loss and its captions. Captions begin with `[DEC]` and end with `[SEP]`, in training and in
/// generation.
#[derive(Debug)]
pub struct BlipForConditionalGeneration {
    config: BlipConfig,
    device: Device,
    /// `None` after [`release_image_encoder`](CaptionModel::release_image_encoder).
    vision: Option<VisionEncoder>,
    word_embeddings: WordEmbedding,
    position_embeddings: Tensor,
    embeddings_norm: LayerNorm,
    embeddings_dropout: Dropout,
    decoder: Decoder,
}

impl BlipForConditionalGeneration {
    /// Builds the model of a checkpoint on the CPU in f32; `builder` decides whether layers are frozen, trainable or adapted.
    ///
    /// A frozen word embedding stays in the checkpoint's file, whose rows are read when they are needed. If the file is changed
    /// in place while the model exists, the model computes with the changed rows, or fails if they are gone.
    ///
    /// # Errors
    /// If a tensor cannot be read, or the builder refuses a layer.
    pub fn load(checkpoint: &Checkpoint, builder: &mut dyn LayerBuilder) -> Result<Self> {
        Self::load_with(checkpoint, builder, &LoadOptions::default())
    }

    /// As [`load`](Self::load), with options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        checkpoint: &Checkpoint,
        builder: &mut dyn LayerBuilder,
        options: &LoadOptions,
    ) -> Result<Self> {
        let mut config = checkpoint.config().clone();
        let text = &mut config.text_config;
        if let Some(p) = options.hidden_dropout {
            text.hidden_dropout_prob = p;
            text.attention_probs_dropout_prob = p;
        }
        let text = &config.text_config;
        let mut loader = Loader::new(checkpoint.tensors(), builder, options);
        let (word_embeddings, lm_head) = loader.words_and_head()?;
        let embeddings = format!("{TEXT}.embeddings");
        Ok(Self {
            vision: Some(VisionEncoder::load(&config.vision_config, &mut loader)?),
            word_embeddings,
            position_embeddings: loader.parameter(&format!("{embeddings}.position_embeddings.weight"))?,
            embeddings_norm: loader.layer_norm(&format!("{embeddings}.LayerNorm"), text.layer_norm_eps)?,
            embeddings_dropout: Dropout::new(&format!("{embeddings}.dropout"), text.hidden_dropout_prob)?,
            decoder: Decoder::load(text, lm_head, &mut loader)?,
            device: options.device.clone(),
            config,
        })
    }

    /// The configuration, with the dropout that the model was built with.
    pub fn config(&self) -> &BlipConfig {
        &self.config
    }

    /// The decoder's last hidden states, `(batch, text, hidden)`.
    ///
    /// `image_features` come from [`encode_images`](CaptionModel::encode_images), a picture for each row of `input_ids`
    /// `(batch, text)`. A token sees the whole image and the text up to itself. Padding belongs at the end of a row, where no
    /// real token sees it.
    ///
    /// # Errors
    /// If the shapes do not fit, a token is not in the vocabulary, or the text is longer than the model has positions.
    pub fn hidden_states(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (batch, length) = input_ids.dims2()?;
        self.check_features(image_features, Some(batch))?;
        let max = self.config.text_config.max_position_embeddings;
        if length > max {
            return Err(Error::TooLong { got: length, max });
        }
        let positions = ctx.parameter(&self.position_embeddings).narrow(0, 0, length)?;
        let text = self.embed_at(input_ids, &positions, ctx)?;
        self.decoder.forward(&text, image_features, ctx)
    }

    /// Logits over the vocabulary, `(..., vocab_size)`, from hidden states `(..., hidden)`.
    ///
    /// # Errors
    /// If the hidden states have another width.
    pub fn logits(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let head = &self.decoder.head;
        Ok(head.decoder.forward(&head.transform(hidden_states, ctx)?, ctx)?)
    }

    /// The embeddings of `input_ids` `(batch, text)`, from word embeddings and the position embeddings `positions`, which
    /// broadcast to `(batch, text, hidden)`.
    fn embed_at(&self, input_ids: &Tensor, positions: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let (batch, length) = input_ids.dims2()?;
        let words = self.word_embeddings.rows(input_ids, ctx)?.reshape((batch, length, ()))?;
        let embeddings = self.embeddings_norm.forward(&words.broadcast_add(positions)?, ctx)?;
        Ok(self.embeddings_dropout.forward(&embeddings, ctx)?)
    }

    /// Checks that features have the encoder's width, and that there are those of `batch` pictures if that is known.
    fn check_features(&self, image_features: &Tensor, batch: Option<usize>) -> Result<()> {
        let width = self.config.vision_config.hidden_size;
        match image_features.dims() {
            &[pictures, _, found] if found == width && batch.is_none_or(|batch| batch == pictures) => Ok(()),
            got => Err(Error::Shape {
                input: "image_features",
                expected: match batch {
                    Some(batch) => format!("({batch}, tokens, {width})"),
                    None => format!("(pictures, tokens, {width})"),
                },
                got: got.to_vec(),
            }),
        }
    }
}

impl CaptionModel for BlipForConditionalGeneration {
    fn device(&self) -> &Device {
        &self.device
    }

    fn tokens(&self) -> ModelTokens {
        self.config.tokens()
    }

    fn image_size(&self) -> usize {
        self.config.vision_config.image_size
    }

    fn feature_shape(&self) -> (usize, usize) {
        (self.config.vision_config.tokens(), self.config.vision_config.hidden_size)
    }

    fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize {
        self.config.saved_activations(caption, vision_trains)
    }

    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let vision = self.vision.as_ref().ok_or(Error::ImageEncoderReleased)?;
        vision.forward(pixel_values, ctx)
    }

    fn release_image_encoder(&mut self) {
        self.vision = None;
    }

    /// As in transformers, the loss is smoothed by `text_config.label_smoothing`, in validation too, where `label_smoothing`
    /// is 0; another value replaces it.
    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let labels = ShiftedLabels::new(labels, input_ids)?;
        if labels.targets.is_empty() {
            return Ok((Tensor::zeros((), DType::F32, &self.device)?, 0));
        }
        let hidden_states = labels.select(&self.hidden_states(image_features, input_ids, ctx)?)?;
        let smoothing = match label_smoothing {
            0.0 => self.config.text_config.label_smoothing,
            given => given,
        };
        let (head, ctx) = (&self.decoder.head, labels.context(ctx));
        let transformed = head.transform(&hidden_states, &ctx)?;
        let loss =
            linear_cross_entropy_sum(&transformed, head.decoder.as_ref(), &labels.targets, smoothing, &ctx)?;
        Ok((loss, labels.targets.len()))
    }

    fn embed(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (rows, new) = positions.dims2()?;
        let positions = self.position_embeddings.detach().index_select(&positions.flatten_all()?, 0)?;
        self.embed_at(input_ids, &positions.reshape((rows, new, ()))?, &ForwardContext::inference())
    }

    fn caches(&self, image_features: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        self.check_features(image_features, None)?;
        self.decoder.caches(image_features, slots)
    }

    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>> {
        Ok(Box::new(self.decoder.map_linear(map)?))
    }

    fn decoder_weights(&self) -> usize {
        let text = &self.config.text_config;
        let (width, inner) = (text.hidden_size, text.intermediate_size);
        // Of cross-attention, the query and the output: keys and values are computed once for a picture.
        let layer = 4 * width * width + 2 * width * width + 2 * width * inner;
        text.num_hidden_layers * layer + width * width + width * text.vocab_size
    }
}
