use candle_core::{DType, Device, Tensor};
use caption_model::{CaptionConfig, CaptionModel, DecodingGraphs, LayerMap, ShiftedLabels, TextDecoder};
use train_ops::{ForwardContext, KeyValueCache, linear_cross_entropy_sum};

use crate::decoder::DecoderWithHead;
use crate::{Error, GitForCausalLm, Result};

/// Sequences that GIT is decoding.
pub type Decoding<'a> = caption_model::Decoding<'a, GitForCausalLm>;

impl GitForCausalLm {
    /// Begins to decode. There is one sequence without text for each picture, and there are cache slots for
    /// `slots` text tokens of all sequences together. The keys and values of the pictures are computed here.
    ///
    /// # Errors
    /// If `image_features` are not `(batch, tokens, vision_hidden)`.
    pub fn begin_decoding(&self, image_features: &Tensor, slots: usize) -> Result<Decoding<'_>> {
        Decoding::new(self, image_features, slots)
    }
}

impl CaptionModel for GitForCausalLm {
    fn device(&self) -> &Device {
        &self.device
    }

    fn caption_config(&self) -> &dyn CaptionConfig {
        &self.config
    }

    /// `pixel_values` may also be videos `(batch, frames, channels, size, size)`. A video has the tokens of its
    /// frames one after another, with temporal embeddings added.
    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
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

    fn release_image_encoder(&mut self) {
        self.vision = None;
    }

    /// (Versions 4.48.3 to 5.14 of transformers shift labels twice, and so train a model to predict the token after next.)
    /// Logits are computed only at positions with a target.
    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let labels = ShiftedLabels::new(labels, input_ids)?.padded_for(&self.device);
        if labels.count() == 0 {
            return Ok((Tensor::zeros((), DType::F32, &self.device)?, 0));
        }
        let hidden_states = labels.select(&self.hidden_states(image_features, input_ids, ctx)?)?;
        let (head, ctx) = (self.lm_head.as_ref(), labels.context(ctx));
        let loss = linear_cross_entropy_sum(&hidden_states, head, &labels.targets, label_smoothing, &ctx)?;
        Ok((loss, labels.count()))
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

    fn decoding_graphs(&self) -> Option<&DecodingGraphs> {
        self.decoding_graphs.as_ref()
    }

    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>> {
        Ok(Box::new(DecoderWithHead { decoder: self.decoder.map_linear(map)?, lm_head: map(&self.lm_head)? }))
    }
}
