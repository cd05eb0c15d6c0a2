use candle_core::{Device, Tensor};
use caption_model::{
    CaptionCheckpoint as _, CaptionConfig, CaptionModel, DecodingGraphs, LayerMap, Loader, ShiftedLabels,
    TextDecoder,
};
use train_ops::{DecoderMasks, ForwardContext, KeyValueCache, LayerBuilder};

use crate::parts::Parts;
use crate::{BlipConfig, BlipTask, Checkpoint, LoadOptions, Result, features};

/// Salesforce's BLIP for captioning (Li et al., 2022, <https://arxiv.org/abs/2201.12086>), with the results of
/// transformers' `BlipForConditionalGeneration`.
///
/// [`CaptionModel`] has its loss and its captions. Captions begin with `[DEC]` and end with `[SEP]`, in training and in
/// generation.
#[derive(Debug)]
pub struct BlipForConditionalGeneration {
    parts: Parts,
}

impl BlipForConditionalGeneration {
    /// Builds the model of a checkpoint on the CPU in f32; `builder` decides whether layers are frozen, trainable or adapted.
    ///
    /// A frozen word embedding stays in the checkpoint's file, and its rows are read when they are needed. If
    /// the file is changed in place while the model exists, the model uses the changed rows, or fails if they
    /// are missing.
    ///
    /// # Errors
    /// If the checkpoint is for questions, a tensor cannot be read, or the builder refuses a layer.
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
        checkpoint.expect(BlipTask::Captions)?;
        let config = checkpoint.config().with_dropout(options.hidden_dropout);
        let mut loader = Loader::new(checkpoint.tensors(), builder, options);
        Ok(Self { parts: Parts::load(config, &mut loader, options)? })
    }

    /// The configuration, with the dropout that the model was built with.
    pub fn config(&self) -> &BlipConfig {
        &self.parts.config
    }

    /// The decoder's last hidden states, `(batch, text, hidden)`.
    ///
    /// `image_features` come from [`encode_images`](CaptionModel::encode_images), a picture for each row of
    /// `input_ids` `(batch, text)`. A token attends to the whole image and to the text up to itself. Padding
    /// must be at the end of a row, where no real token attends to it.
    ///
    /// # Errors
    /// If the shapes do not fit, a token is not in the vocabulary, or the text is longer than the model has positions.
    pub fn hidden_states(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (batch, width) = (input_ids.dim(0)?, self.parts.config.vision_config.hidden_size);
        features::check("image_features", image_features, Some(batch), width)?;
        let text = self.parts.embeddings.forward(input_ids, ctx)?;
        self.parts.decoder.forward(&text, image_features, &DecoderMasks::causal(), ctx)
    }

    /// Logits over the vocabulary, `(..., vocab_size)`, from hidden states `(..., hidden)`.
    ///
    /// # Errors
    /// If the hidden states have another width.
    pub fn logits(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.parts.decoder.head.logits(hidden_states, ctx)
    }
}

impl CaptionModel for BlipForConditionalGeneration {
    fn device(&self) -> &Device {
        &self.parts.device
    }

    fn caption_config(&self) -> &dyn CaptionConfig {
        &self.parts.config
    }

    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.parts.encode_images(pixel_values, ctx)
    }

    fn release_image_encoder(&mut self) {
        self.parts.vision = None;
    }

    /// As in transformers, the loss is smoothed by `text_config.label_smoothing` if `label_smoothing` is 0, in
    /// validation too. Any other value of `label_smoothing` replaces it.
    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let labels = ShiftedLabels::new(labels, input_ids)?.padded_for(&self.parts.device);
        let hidden_states = || self.hidden_states(image_features, input_ids, ctx);
        self.parts.loss(&labels, label_smoothing, ctx, hidden_states)
    }

    fn embed(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.parts.embeddings.at(input_ids, positions)
    }

    fn caches(&self, states: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        features::check("image_features", states, None, self.parts.config.vision_config.hidden_size)?;
        self.parts.decoder.caches(states, slots)
    }

    fn decoding_graphs(&self) -> Option<&DecodingGraphs> {
        self.parts.decoding_graphs.as_ref()
    }

    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>> {
        Ok(Box::new(self.parts.decoder.map_linear(map)?))
    }
}
