use std::sync::Arc;

use candle_core::{Device, Tensor};
use caption_model::{DecodingGraphs, Loader, WordEmbedding};
use train_ops::{Dropout, ForwardContext, LayerBuilder, LayerNorm, LinearLayer};

use crate::decoder::Decoder;
use crate::{CaptionCheckpoint as _, Checkpoint, Error, GitConfig, LoadOptions, Result, VisionEncoder};

/// Microsoft's GIT (Wang et al., 2022, <https://arxiv.org/abs/2205.14100>) with its language-modelling head.
/// The results are those of transformers' `GitForCausalLM`.
///
/// Captioning has three steps: [`encode_images`](crate::CaptionModel::encode_images), [`project`](Self::project), and the decoder with
/// text ([`hidden_states`](Self::hidden_states), [`loss`](crate::CaptionModel::loss), [`generate`](crate::CaptionModel::generate)). If the
/// encoder is frozen, the first step is needed only once for each picture.
#[derive(Debug)]
pub struct GitForCausalLm {
    pub(crate) config: GitConfig,
    pub(crate) device: Device,
    /// `None` after [`release_image_encoder`](crate::CaptionModel::release_image_encoder).
    pub(crate) vision: Option<VisionEncoder>,
    pub(crate) temporal_embeddings: Vec<Tensor>,
    projection: Arc<dyn LinearLayer>,
    projection_norm: LayerNorm,
    word_embeddings: WordEmbedding,
    pub(crate) position_embeddings: Tensor,
    embeddings_norm: LayerNorm,
    embeddings_dropout: Dropout,
    pub(crate) decoder: Decoder,
    pub(crate) lm_head: Arc<dyn LinearLayer>,
    pub(crate) decoding_graphs: Option<DecodingGraphs>,
}

impl GitForCausalLm {
    /// Builds the model of a checkpoint on the CPU in f32; `builder` decides whether layers are frozen, trainable or adapted.
    ///
    /// A frozen word embedding stays in the checkpoint's file, and its rows are read when they are needed. If
    /// the file is changed in place while the model exists, the model uses the changed rows, or fails if they
    /// are missing.
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
            decoding_graphs: DecodingGraphs::new(options),
            device: options.device.clone(),
            config,
        })
    }

    /// The configuration, with the dropout that the model was built with.
    pub fn config(&self) -> &GitConfig {
        &self.config
    }

    /// Image tokens for the decoder, `(batch, tokens, hidden)`, from the features of
    /// [`encode_images`](crate::CaptionModel::encode_images).
    ///
    /// # Errors
    /// If the features have another width.
    pub fn project(&self, image_features: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let projected = self.projection.forward(image_features, ctx)?;
        Ok(self.projection_norm.forward(&projected, ctx)?)
    }

    /// The decoder's last hidden states at the text positions, `(batch, text, hidden)`.
    ///
    /// `image_features` come from [`encode_images`](crate::CaptionModel::encode_images), a picture for each row
    /// of `input_ids` `(batch, text)`. Image tokens attend to each other and to no text; a text token attends
    /// to the image and to the text up to itself. Padding must be at the end of a row, where no real token
    /// attends to it.
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
