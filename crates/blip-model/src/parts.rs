use candle_core::{DType, Device, Tensor};
use caption_model::{DecodingGraphs, Loader, ShiftedLabels};
use train_ops::ForwardContext;

use crate::decoder::Decoder;
use crate::embeddings::Embeddings;
use crate::schema::TEXT;
use crate::{BlipConfig, Error, LoadOptions, Result, VisionEncoder};

/// The parts that BLIP has for every task.
#[derive(Debug)]
pub(crate) struct Parts {
    /// With the dropout that the model was built with.
    pub(crate) config: BlipConfig,
    pub(crate) device: Device,
    /// `None` after [`release_image_encoder`](caption_model::CaptionModel::release_image_encoder).
    pub(crate) vision: Option<VisionEncoder>,
    pub(crate) embeddings: Embeddings,
    pub(crate) decoder: Decoder,
    pub(crate) decoding_graphs: Option<DecodingGraphs>,
}

impl Parts {
    pub(crate) fn load(config: BlipConfig, loader: &mut Loader<'_>, options: &LoadOptions) -> Result<Self> {
        let (words, lm_head) = loader.words_and_head()?;
        let text = &config.text_config;
        Ok(Self {
            vision: Some(VisionEncoder::load(&config.vision_config, loader)?),
            embeddings: Embeddings::load(text, &format!("{TEXT}.embeddings"), words, loader)?,
            decoder: Decoder::load(text, lm_head, loader)?,
            decoding_graphs: DecodingGraphs::new(options),
            device: options.device.clone(),
            config,
        })
    }

    pub(crate) fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.vision.as_ref().ok_or(Error::ImageEncoderReleased)?.forward(pixel_values, ctx)
    }

    /// The sum of the losses, 0 without targets, and the number of targets. The `hidden_states` are computed
    /// only if there are targets.
    pub(crate) fn loss(
        &self,
        labels: &ShiftedLabels,
        label_smoothing: f32,
        ctx: &ForwardContext,
        hidden_states: impl FnOnce() -> Result<Tensor>,
    ) -> Result<(Tensor, usize)> {
        if labels.count() == 0 {
            return Ok((Tensor::zeros((), DType::F32, &self.device)?, 0));
        }
        let smoothing = self.config.smoothing(label_smoothing);
        let loss = self.decoder.head.loss(&hidden_states()?, labels, smoothing, ctx)?;
        Ok((loss, labels.count()))
    }
}
