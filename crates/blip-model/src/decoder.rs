use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{DecoderShape, LayerMap, Loader, TextDecoder};
use train_ops::{Activation, DecodingRows, ForwardContext, KeyValueCache, LayerNorm, LinearLayer};

use crate::layer::DecoderLayer;
use crate::schema::{HEAD, TEXT};
use crate::{Result, TextConfig};

/// BLIP's text decoder and its head.
#[derive(Debug)]
pub(crate) struct Decoder {
    layers: Vec<DecoderLayer>,
    pub(crate) head: Head,
}

/// The language-modelling head: `decoder(norm(activation(transform(x))))`.
#[derive(Debug)]
pub(crate) struct Head {
    transform: Arc<dyn LinearLayer>,
    activation: Activation,
    norm: LayerNorm,
    pub(crate) decoder: Arc<dyn LinearLayer>,
}

impl Decoder {
    /// The decoder with its head, whose last layer is `lm_head`.
    pub(crate) fn load(
        config: &TextConfig,
        lm_head: Arc<dyn LinearLayer>,
        loader: &mut Loader<'_>,
    ) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::load(config, &format!("{TEXT}.encoder.layer.{layer}"), loader))
            .collect::<Result<_>>()?;
        let head = Head {
            transform: loader.linear(&format!("{HEAD}.transform.dense"))?,
            activation: config.hidden_act,
            norm: loader.layer_norm(&format!("{HEAD}.transform.LayerNorm"), config.layer_norm_eps)?,
            decoder: lm_head,
        };
        Ok(Self { layers, head })
    }

    /// The last layer's hidden states, `(batch, text, hidden)`, of embedded text `(batch, text, hidden)` and image features
    /// `(batch, tokens, vision_hidden)`.
    pub(crate) fn forward(&self, text: &Tensor, image: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let mut hidden_states = text.clone();
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, image, ctx)?;
        }
        Ok(hidden_states)
    }

    /// A cache for each layer: see [`DecoderLayer::cache`].
    pub(crate) fn caches(&self, image: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        self.layers.iter().map(|layer| layer.cache(image, slots)).collect()
    }

    /// The decoder with `map` applied to each of its linear layers.
    pub(crate) fn map_linear(&self, map: LayerMap) -> Result<Self> {
        let layers =
            self.layers.iter().map(|layer| layer.map_linear(map)).collect::<train_ops::Result<_>>()?;
        Ok(Self { layers, head: self.head.map_linear(map)? })
    }
}

impl TextDecoder for Decoder {
    fn shape(&self) -> DecoderShape {
        DecoderShape {
            layers: self.layers.len(),
            hidden_size: self.head.decoder.in_features(),
            vocab_size: self.head.decoder.out_features(),
        }
    }

    fn step(&self, text: &Tensor, caches: &[KeyValueCache], rows: &DecodingRows) -> Result<Tensor> {
        let mut hidden_states = text.clone();
        for (layer, cache) in self.layers.iter().zip(caches) {
            hidden_states = layer.step(&hidden_states, cache, rows)?;
        }
        let last = hidden_states.narrow(1, hidden_states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        let ctx = ForwardContext::inference();
        Ok(self.head.decoder.forward(&self.head.transform(&last, &ctx)?, &ctx)?)
    }
}

impl Head {
    /// The input of the last layer, `(..., hidden)`.
    pub(crate) fn transform(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let transformed = self.activation.forward(&self.transform.forward(hidden_states, ctx)?)?;
        Ok(self.norm.forward(&transformed, ctx)?)
    }

    fn map_linear(&self, map: LayerMap) -> train_ops::Result<Self> {
        Ok(Self {
            transform: map(&self.transform)?,
            activation: self.activation,
            norm: self.norm.clone(),
            decoder: map(&self.decoder)?,
        })
    }
}
