use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{DecoderShape, LayerMap, Loader, ShiftedLabels, TextDecoder};
use train_ops::{
    Activation, DecoderLayer, DecoderMasks, DecodingRows, ForwardContext, KeyValueCache, LayerNorm,
    LinearLayer, linear_cross_entropy_sum,
};

use crate::schema::{HEAD, TEXT};
use crate::{Result, TextConfig, layer};

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
    decoder: Arc<dyn LinearLayer>,
}

impl Decoder {
    /// The decoder with its head, whose last layer is `lm_head`.
    pub(crate) fn load(
        config: &TextConfig,
        lm_head: Arc<dyn LinearLayer>,
        loader: &mut Loader<'_>,
    ) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|number| layer::load(config, &format!("{TEXT}.encoder.layer.{number}"), loader))
            .collect::<Result<_>>()?;
        let head = Head {
            transform: loader.linear(&format!("{HEAD}.transform.dense"))?,
            activation: config.hidden_act,
            norm: loader.layer_norm(&format!("{HEAD}.transform.LayerNorm"), config.layer_norm_eps)?,
            decoder: lm_head,
        };
        Ok(Self { layers, head })
    }

    /// The last layer's hidden states, `(batch, text, hidden)`, of embedded text `(batch, text, hidden)` and the states
    /// `(batch, tokens, width)` that it attends to.
    pub(crate) fn forward(
        &self,
        text: &Tensor,
        states: &Tensor,
        masks: &DecoderMasks,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        layer::forward_all(&self.layers, text, states, masks, ctx)
    }

    /// A cache for each layer: see [`layer::cache`].
    pub(crate) fn caches(&self, states: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        let states = layer::as_activations(&self.layers, states, &ForwardContext::inference())?;
        self.layers.iter().map(|layer| layer::cache(layer, &states, slots)).collect()
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
        let mut hidden_states = layer::as_activations(&self.layers, text, &ForwardContext::inference())?;
        for (layer, cache) in self.layers.iter().zip(caches) {
            hidden_states = layer::step(layer, &hidden_states, cache, rows)?;
        }
        let hidden_states = hidden_states.to_dtype(text.dtype())?;
        let last = hidden_states.narrow(1, hidden_states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        self.head.logits(&last, &ForwardContext::inference())
    }
}

impl Head {
    /// Logits over the vocabulary, `(..., vocab_size)`, from hidden states `(..., hidden)`.
    pub(crate) fn logits(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        Ok(self.decoder.forward(&self.transform(hidden_states, ctx)?, ctx)?)
    }

    /// The sum of the targets' cross entropies, from hidden states `(batch, text, hidden)`. Only those with a target are read.
    pub(crate) fn loss(
        &self,
        hidden_states: &Tensor,
        labels: &ShiftedLabels,
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let ctx = labels.context(ctx);
        let transformed = self.transform(&labels.select(hidden_states)?, &ctx)?;
        let (head, targets) = (self.decoder.as_ref(), &labels.targets);
        Ok(linear_cross_entropy_sum(&transformed, head, targets, label_smoothing, &ctx)?)
    }

    /// The input of the last layer, `(..., hidden)`.
    fn transform(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
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
