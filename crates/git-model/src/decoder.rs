use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{
    Activation, AttentionMask, DecodingRows, Dropout, KeyValueCache, LayerNorm, LinearLayer, Pass, attention,
    cached_attention, recompute,
};

use crate::loader::Loader;
use crate::{GitConfig, Result};

/// GIT's decoder: BERT layers (post-norm) over image tokens followed by text.
#[derive(Debug)]
pub(crate) struct Decoder {
    layers: Vec<Arc<DecoderLayer>>,
    gradient_checkpointing: bool,
}

impl Decoder {
    pub(crate) fn load(config: &GitConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                DecoderLayer::load(config, &format!("git.encoder.layer.{layer}"), loader).map(Arc::new)
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, gradient_checkpointing: loader.gradient_checkpointing })
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
            hidden_states = if self.gradient_checkpointing && pass.is_training() {
                let (segment, pass) = (layer.clone(), pass.clone());
                recompute(&layer.parameters(), &hidden_states, move |hidden_states| {
                    segment.forward_from(hidden_states, prefix, first_query, &pass)
                })?
            } else {
                layer.forward_from(&hidden_states, prefix, first_query, pass)?
            };
        }
        Ok(hidden_states)
    }

    /// A cache for each layer that holds the keys and values of image tokens `(pictures, image, hidden)`, with room for
    /// `places` text tokens. Text never changes those of the image, so they are computed once for all steps and beams.
    pub(crate) fn caches(&self, image: &Tensor, places: usize) -> Result<Vec<KeyValueCache>> {
        let pass = Pass::inference();
        let mut hidden_states = image.clone();
        let mut caches = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (key, value) = layer.key_value(&hidden_states, &pass)?;
            if index + 1 < self.layers.len() {
                hidden_states = layer.forward(&hidden_states, &key, &value, AttentionMask::Full, &pass)?;
            }
            caches.push(KeyValueCache::new(key, value, places)?);
        }
        Ok(caches)
    }

    /// The hidden states of new text `(rows, new, hidden)`, which `rows` has places for; its keys and values are cached.
    pub(crate) fn step(
        &self,
        text: &Tensor,
        caches: &[KeyValueCache],
        rows: &DecodingRows,
    ) -> Result<Tensor> {
        let pass = Pass::inference();
        let mut hidden_states = text.clone();
        for (layer, cache) in self.layers.iter().zip(caches) {
            let (key, value) = layer.key_value(&hidden_states, &pass)?;
            cache.write(&key, &value, rows)?;
            let query = layer.query.forward(&hidden_states, &pass)?;
            let context = cached_attention(&query, cache, rows, layer.heads)?;
            hidden_states = layer.after_attention(&context, &hidden_states, &pass)?;
        }
        Ok(hidden_states)
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

    /// The trainable parameters of the layer.
    fn parameters(&self) -> Vec<Tensor> {
        let linear = [&self.query, &self.key, &self.value, &self.intermediate];
        let mut parameters: Vec<Tensor> = linear.into_iter().flat_map(|linear| linear.parameters()).collect();
        for output in [&self.attention_output, &self.output] {
            parameters.extend(output.dense.parameters());
            parameters.extend(output.layer_norm.parameters());
        }
        parameters
    }

    /// The layer on image tokens, of which there are `prefix`, and text: what it makes of the positions from
    /// `first_query` on.
    fn forward_from(
        &self,
        hidden_states: &Tensor,
        prefix: usize,
        first_query: usize,
        pass: &Pass,
    ) -> Result<Tensor> {
        let queries = match first_query {
            0 => hidden_states.clone(),
            first => hidden_states.narrow(1, first, hidden_states.dim(1)? - first)?.contiguous()?,
        };
        let (key, value) = self.key_value(hidden_states, pass)?;
        let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
        self.forward(&queries, &key, &value, mask, pass)
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
        self.after_attention(&context, hidden_states, pass)
    }

    /// The rest of the layer, from what attention found for each of the hidden states.
    fn after_attention(&self, context: &Tensor, hidden_states: &Tensor, pass: &Pass) -> Result<Tensor> {
        let attended = self.attention_output.forward(context, hidden_states, pass)?;
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
