use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use caption_model::{CaptionCheckpoint as _, Loader, ShiftedLabels, WordEmbedding};
use train_ops::{Dropout, ForwardContext, LayerBuilder, LayerNorm, LinearLayer, linear_cross_entropy_sum};

use crate::decoder::Decoder;
use crate::{Checkpoint, Error, GitConfig, LoadOptions, Result, VisionEncoder};

/// Microsoft's GIT (Wang et al., 2022, <https://arxiv.org/abs/2205.14100>) with its language-modelling head, as
/// transformers' `GitForCausalLM` computes it.
///
/// Captioning has three steps: [`encode_images`](Self::encode_images), [`project`](Self::project), and the decoder with text
/// ([`hidden_states`](Self::hidden_states), [`loss`](Self::loss), [`generate`](Self::generate)). If the encoder is frozen, the
/// first step is needed only once for each picture.
#[derive(Debug)]
pub struct GitForCausalLm {
    config: GitConfig,
    device: Device,
    /// `None` after [`release_image_encoder`](Self::release_image_encoder).
    vision: Option<VisionEncoder>,
    temporal_embeddings: Vec<Tensor>,
    projection: Arc<dyn LinearLayer>,
    projection_norm: LayerNorm,
    word_embeddings: WordEmbedding,
    pub(crate) position_embeddings: Tensor,
    embeddings_norm: LayerNorm,
    embeddings_dropout: Dropout,
    pub(crate) decoder: Decoder,
    pub(crate) lm_head: Arc<dyn LinearLayer>,
}

impl GitForCausalLm {
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
        if let Some(p) = options.hidden_dropout {
            config.hidden_dropout_prob = p;
            config.attention_probs_dropout_prob = p;
        }
        let mut loader = Loader::new(checkpoint.tensors(), builder, options);
        let (word_embeddings, lm_head) = loader.words_and_head()?;
        Ok(Self {
            vision: Some(VisionEncoder::load(&config.vision_config, &mut loader)?),
            temporal_embeddings: (0..config.num_image_with_embedding.unwrap_or(0))
                .map(|frame| loader.parameter(&format!("git.img_temporal_embedding.{frame}")))
                .collect::<Result<_>>()?,
            projection: loader.linear("git.visual_projection.visual_projection.0")?,
            // transformers gives this norm the vision encoder's epsilon.
            projection_norm: loader.layer_norm(
                "git.visual_projection.visual_projection.1",
                config.vision_config.layer_norm_eps,
            )?,
            word_embeddings,
            position_embeddings: loader.parameter("git.embeddings.position_embeddings.weight")?,
            embeddings_norm: loader.layer_norm("git.embeddings.LayerNorm", config.layer_norm_eps)?,
            embeddings_dropout: Dropout::new("git.embeddings.dropout", config.hidden_dropout_prob)?,
            decoder: Decoder::load(&config, &mut loader)?,
            lm_head,
            device: options.device.clone(),
            config,
        })
    }

    /// The configuration, with the dropout that the model was built with.
    pub fn config(&self) -> &GitConfig {
        &self.config
    }

    /// The device of the model's tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The vision encoder's features, `(batch, tokens, vision_hidden)`, of pictures `(batch, channels, size, size)` or videos
    /// `(batch, frames, channels, size, size)`. A video has the tokens of its frames one after another, with temporal
    /// embeddings added.
    ///
    /// # Errors
    /// If `pixel_values` has another shape, or the encoder was released.
    pub fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let vision = self.vision.as_ref().ok_or(Error::ImageEncoderReleased)?;
        if pixel_values.rank() != 5 {
            return vision.forward(pixel_values, ctx);
        }
        let (frames, most) = (pixel_values.dim(1)?, self.temporal_embeddings.len());
        if frames == 0 || frames > most {
            return Err(Error::Shape {
                input: "pixel_values of a video",
                expected: match most {
                    0 => "(batch, channels, size, size), as this model takes single pictures".to_owned(),
                    _ => format!("1 to {most} frames in the second dimension"),
                },
                got: pixel_values.dims().to_vec(),
            });
        }
        let encoded = (0..frames)
            .zip(&self.temporal_embeddings)
            .map(|(frame, temporal)| {
                let features = vision.forward(&pixel_values.narrow(1, frame, 1)?.squeeze(1)?, ctx)?;
                Ok(features.broadcast_add(&ctx.parameter(temporal))?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&encoded, 1)?)
    }

    /// Frees the vision encoder, half of the model's memory, once the features of every picture are cached. After this,
    /// [`encode_images`](Self::encode_images) is an error.
    pub fn release_image_encoder(&mut self) {
        self.vision = None;
    }

    /// Image tokens for the decoder, `(batch, tokens, hidden)`, from the features of
    /// [`encode_images`](Self::encode_images).
    ///
    /// # Errors
    /// If the features have another width.
    pub fn project(&self, image_features: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let projected = self.projection.forward(image_features, ctx)?;
        Ok(self.projection_norm.forward(&projected, ctx)?)
    }

    /// The decoder's last hidden states at the text positions, `(batch, text, hidden)`.
    ///
    /// `image_features` come from [`encode_images`](Self::encode_images), a picture for each row of `input_ids`
    /// `(batch, text)`. Image tokens see each other and no text; a text token sees the image and the text up to itself.
    /// Padding belongs at the end of a row, where no real token sees it.
    ///
    /// # Errors
    /// If the shapes do not fit, a token is not in the vocabulary, or the text is longer than the model has positions.
    pub fn hidden_states(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        if image_features.rank() != 3 || image_features.dim(0)? != input_ids.dim(0)? {
            return Err(Error::Shape {
                input: "image_features",
                expected: format!(
                    "({}, tokens, {})",
                    input_ids.dim(0)?,
                    self.config.vision_config.hidden_size
                ),
                got: image_features.dims().to_vec(),
            });
        }
        let image = self.project(image_features, ctx)?;
        let length = input_ids.dim(1)?;
        self.check_length(length)?;
        let positions = ctx.parameter(&self.position_embeddings).narrow(0, 0, length)?;
        let text = self.embed(input_ids, &positions, ctx)?;
        self.decoder.forward(&image, &text, ctx)
    }

    /// Logits over the vocabulary, `(..., vocab_size)`, from hidden states `(..., hidden)`.
    ///
    /// # Errors
    /// If the hidden states have another width.
    pub fn logits(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        Ok(self.lm_head.forward(hidden_states, ctx)?)
    }

    /// The sum of the cross entropies of all targets, and the number of targets.
    ///
    /// `labels` `(batch, text)` are the input ids, with -100 or any other negative number at positions without a target, such as
    /// padding. They are shifted
    /// here, once: the logits at position `t` are compared with the label at `t + 1` of the same row. (Versions 4.48.3 to
    /// 5.14 of transformers shift twice, and so train a model to predict the token after next.) Logits are computed only at
    /// positions with a target.
    ///
    /// # Errors
    /// As [`hidden_states`](Self::hidden_states), and if `labels` has another shape than `input_ids`.
    pub fn loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        self.smoothed_loss(image_features, input_ids, labels, 0.0, ctx)
    }

    /// [`loss`](Self::loss) with label smoothing: `label_smoothing`, in `[0, 1)`, is the share of each target that is spread
    /// over the whole vocabulary (see [`train_ops::cross_entropy_sum`]).
    ///
    /// # Errors
    /// As `loss`, and if `label_smoothing` is outside its range.
    pub fn smoothed_loss(
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
        let (head, ctx) = (self.lm_head.as_ref(), labels.context(ctx));
        let loss = linear_cross_entropy_sum(&hidden_states, head, &labels.targets, label_smoothing, &ctx)?;
        Ok((loss, labels.targets.len()))
    }

    /// The embeddings of `input_ids` `(batch, text)`, from word embeddings and the position embeddings `positions`, which
    /// broadcast to `(batch, text, hidden)`. Positions are counted over the text only; image tokens have none.
    pub(crate) fn embed(
        &self,
        input_ids: &Tensor,
        positions: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (batch, length) = input_ids.dims2()?;
        let words = self.word_embeddings.rows(input_ids, ctx)?.reshape((batch, length, ()))?;
        let embeddings = self.embeddings_norm.forward(&words.broadcast_add(positions)?, ctx)?;
        Ok(self.embeddings_dropout.forward(&embeddings, ctx)?)
    }

    /// Checks that the model has positions for `length` text tokens.
    pub(crate) fn check_length(&self, length: usize) -> Result<()> {
        let max = self.config.max_position_embeddings;
        if length > max { Err(Error::TooLong { got: length, max }) } else { Ok(()) }
    }
}
