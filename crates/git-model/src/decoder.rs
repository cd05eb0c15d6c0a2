use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{Activation, AttentionMask, Dropout, LayerNorm, LinearLayer, Pass, attention};

use crate::loader::Loader;
use crate::{GitConfig, Result};

/// GIT's decoder: BERT layers (post-norm) over image tokens followed by text.
#[derive(Debug)]
pub(crate) struct Decoder {
    layers: Vec<DecoderLayer>,
}

impl Decoder {
    pub(crate) fn load(config: &GitConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::load(config, &format!("git.encoder.layer.{layer}"), loader))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// The hidden states of the text after the last layer, `(batch, text, hidden)`, from image tokens
    /// `(batch, image, hidden)` and embedded text `(batch, text, hidden)`.
    ///
    /// Nothing reads the image tokens after the last layer's keys and values, so that layer works on text alone.
    pub(crate) fn forward(&self, image: &Tensor, text: &Tensor, pass: &Pass) -> Result<Tensor> {
        let prefix = image.dim(1)?;
        let mut hidden_states = Tensor::cat(&[image, text], 1)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let first_query = if index + 1 == self.layers.len() { prefix } else { 0 };
            let queries = match first_query {
                0 => hidden_states.clone(),
                first => hidden_states.narrow(1, first, hidden_states.dim(1)? - first)?.contiguous()?,
            };
            let (key, value) = layer.key_value(&hidden_states, pass)?;
            let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
            hidden_states = layer.forward(&queries, &key, &value, mask, pass)?;
        }
        Ok(hidden_states)
    }

    /// Keys and values of image tokens `(pictures, image, hidden)` in every layer: text never changes them, so a
    /// picture's are computed once for all steps and all beams.
    pub(crate) fn image_keys_values(&self, image: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
        let pass = Pass::inference();
        let mut hidden_states = image.clone();
        let mut keys_values = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (key, value) = layer.key_value(&hidden_states, &pass)?;
            if index + 1 < self.layers.len() {
                hidden_states = layer.forward(&hidden_states, &key, &value, AttentionMask::Full, &pass)?;
            }
            keys_values.push((key, value));
        }
        Ok(keys_values)
    }

    /// The hidden states of new text `(rows, new, hidden)`, whose keys and values are appended to the cache.
    pub(crate) fn step(&self, text: &Tensor, cache: &mut KeyValueCache) -> Result<Tensor> {
        let pass = Pass::inference();
        let mut hidden_states = text.clone();
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            let (key, value) = layer.key_value(&hidden_states, &pass)?;
            let (key, value) = cache.append(key, value)?;
            let prefix = cache.image.0.dim(1)?;
            let first_query = key.dim(1)? - hidden_states.dim(1)?;
            let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
            hidden_states = layer.forward(&hidden_states, &key, &value, mask, &pass)?;
        }
        cache.length += text.dim(1)?;
        Ok(hidden_states)
    }
}

/// Keys and values of what was decoded so far, `rows` sequences over their pictures.
pub(crate) struct KeyValueCache {
    /// Text tokens.
    length: usize,
    layers: Vec<LayerCache>,
}

struct LayerCache {
    /// One row for each sequence, `(rows, image, hidden)`.
    image: (Tensor, Tensor),
    /// `(rows, text, hidden)`; `None` before the first token.
    text: Option<(Tensor, Tensor)>,
}

impl KeyValueCache {
    /// Text tokens that it holds.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// A cache without text, a row for each picture.
    pub(crate) fn new(image_keys_values: &[(Tensor, Tensor)]) -> Self {
        let layers = image_keys_values.iter();
        Self {
            length: 0,
            layers: layers.map(|image| LayerCache { image: image.clone(), text: None }).collect(),
        }
    }

    /// Makes row `i` continue what was row `parents[i]`.
    pub(crate) fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        let parents: Vec<u32> = parents.iter().map(|row| *row as u32).collect();
        let Some(layer) = self.layers.first() else { return Ok(()) };
        let parents = &Tensor::new(parents, layer.image.0.device())?;
        let rows = |pair: &(Tensor, Tensor)| -> Result<(Tensor, Tensor)> {
            Ok((pair.0.index_select(parents, 0)?, pair.1.index_select(parents, 0)?))
        };
        for layer in &mut self.layers {
            layer.image = rows(&layer.image)?;
            layer.text = layer.text.as_ref().map(rows).transpose()?;
        }
        Ok(())
    }
}

impl LayerCache {
    /// Adds the keys and values of new text; returns those of the whole sequence.
    fn append(&mut self, key: Tensor, value: Tensor) -> Result<(Tensor, Tensor)> {
        let (key, value) = match &self.text {
            Some((past_key, past_value)) => {
                (Tensor::cat(&[past_key, &key], 1)?, Tensor::cat(&[past_value, &value], 1)?)
            }
            None => (key, value),
        };
        let all = (Tensor::cat(&[&self.image.0, &key], 1)?, Tensor::cat(&[&self.image.1, &value], 1)?);
        self.text = Some((key, value));
        Ok(all)
    }
}

#[derive(Debug)]
struct DecoderLayer {
    heads: usize,
    query: Arc<dyn LinearLayer>,
    key: Arc<dyn LinearLayer>,
    value: Arc<dyn LinearLayer>,
    attention_dropout: Dropout,
    attention_output: BlockOutput,
    intermediate: Arc<dyn LinearLayer>,
    activation: Activation,
    output: BlockOutput,
}

impl DecoderLayer {
    fn load(config: &GitConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        let attention = format!("{path}.attention");
        Ok(Self {
            heads: config.num_attention_heads,
            query: loader.linear(&format!("{attention}.self.query"))?,
            key: loader.linear(&format!("{attention}.self.key"))?,
            value: loader.linear(&format!("{attention}.self.value"))?,
            attention_dropout: Dropout::new(
                &format!("{attention}.self.dropout"),
                config.attention_probs_dropout_prob,
            )?,
            attention_output: BlockOutput::load(config, &format!("{attention}.output"), loader)?,
            intermediate: loader.linear(&format!("{path}.intermediate.dense"))?,
            activation: config.hidden_act,
            output: BlockOutput::load(config, &format!("{path}.output"), loader)?,
        })
    }

    fn key_value(&self, hidden_states: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        Ok((self.key.forward(hidden_states, pass)?, self.value.forward(hidden_states, pass)?))
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: AttentionMask,
        pass: &Pass,
    ) -> Result<Tensor> {
        let query = self.query.forward(hidden_states, pass)?;
        let context = attention(&query, key, value, self.heads, mask, &self.attention_dropout, pass)?;
        let attended = self.attention_output.forward(&context, hidden_states, pass)?;
        let inner = self.activation.forward(&self.intermediate.forward(&attended, pass)?)?;
        self.output.forward(&inner, &attended, pass)
    }
}

/// The end of a block: `LayerNorm(residual + dropout(dense(x)))`.
#[derive(Debug)]
struct BlockOutput {
    dense: Arc<dyn LinearLayer>,
    dropout: Dropout,
    layer_norm: LayerNorm,
}

impl BlockOutput {
    fn load(config: &GitConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            dense: loader.linear(&format!("{path}.dense"))?,
            dropout: Dropout::new(&format!("{path}.dropout"), config.hidden_dropout_prob)?,
            layer_norm: loader.layer_norm(&format!("{path}.LayerNorm"), config.layer_norm_eps)?,
        })
    }

    fn forward(&self, xs: &Tensor, residual: &Tensor, pass: &Pass) -> Result<Tensor> {
        let xs = self.dense.forward(xs, pass)?;
        Ok(self.layer_norm.forward_residual(&xs, residual, &self.dropout, pass)?)
    }
}
