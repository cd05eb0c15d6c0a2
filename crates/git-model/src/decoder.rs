use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{DecoderShape, LayerMap, Loader, TextDecoder};
use train_ops::{
    AttentionMask, DecodingRows, Dropout, ForwardContext, KeyValueCache, LinearLayer, TransformerLayer,
    cached_attention,
};

use crate::{GitConfig, Result};

/// GIT's decoder: BERT layers (post-norm) over image tokens followed by text.
#[derive(Debug)]
pub(crate) struct Decoder {
    layers: Vec<TransformerLayer>,
}

impl Decoder {
    pub(crate) fn load(config: &GitConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| load_layer(config, &format!("git.encoder.layer.{layer}"), loader))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// The last layer's hidden states at the text positions, `(batch, text, hidden)`, from image tokens
    /// `(batch, image, hidden)` and embedded text `(batch, text, hidden)`.
    ///
    /// The last layer uses the image tokens only for keys and values, so it computes queries only at the text
    /// positions.
    pub(crate) fn forward(&self, image: &Tensor, text: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let prefix = image.dim(1)?;
        let mut hidden_states = self.as_activations(&Tensor::cat(&[image, text], 1)?, ctx)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let first_query = if index + 1 == self.layers.len() { prefix } else { 0 };
            let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
            hidden_states = layer.forward(&ctx.cut(&hidden_states)?, mask, ctx)?;
        }
        Ok(ctx.cut(&hidden_states)?.to_dtype(text.dtype())?)
    }

    /// Hidden states in the type in which the layers compute.
    fn as_activations(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        match self.layers.first() {
            Some(layer) => Ok(layer.as_activations(hidden_states, ctx)?),
            None => Ok(hidden_states.clone()),
        }
    }

    /// A cache for each layer with the keys and values of image tokens `(pictures, image, hidden)` and slots for `slots`
    /// text tokens. Image tokens do not see text, so their keys and values are computed once for all steps and beams.
    pub(crate) fn caches(&self, image: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        let ctx = ForwardContext::inference();
        let mut hidden_states = self.as_activations(image, &ctx)?;
        let mut caches = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let [key, value] = if index + 1 < self.layers.len() {
                let [next, key, value] = layer.forward_with_keys(&hidden_states, AttentionMask::Full)?;
                hidden_states = next;
                [key, value]
            } else {
                [layer.key.forward(&hidden_states, &ctx)?, layer.value.forward(&hidden_states, &ctx)?]
            };
            caches.push(KeyValueCache::new(&key, &value, layer.heads, slots)?);
        }
        Ok(caches)
    }

    /// The decoder with `f` applied to each of its linear layers.
    pub(crate) fn map_linear(&self, f: LayerMap) -> Result<Self> {
        let layers = self.layers.iter().map(|layer| layer.map_linear(f)).collect::<train_ops::Result<_>>()?;
        Ok(Self { layers })
    }

    /// The last layer's hidden states of the newest tokens of `rows`, from their embeddings `text`
    /// `(rows, new, hidden)`. The tokens' keys and values are written to `caches`.
    fn step(&self, text: &Tensor, caches: &[KeyValueCache], rows: &DecodingRows) -> Result<Tensor> {
        let ctx = ForwardContext::inference();
        let mut hidden_states = self.as_activations(text, &ctx)?;
        for (layer, cache) in self.layers.iter().zip(caches) {
            let key = layer.key.forward(&hidden_states, &ctx)?;
            let value = layer.value.forward(&hidden_states, &ctx)?;
            cache.write(&key, &value, rows)?;
            let query = layer.query.forward(&hidden_states, &ctx)?;
            let context = cached_attention(&query, cache, rows)?;
            hidden_states = layer.after_attention(&context, &hidden_states, &ctx)?;
        }
        Ok(hidden_states.to_dtype(text.dtype())?)
    }
}

/// A decoder and its head.
#[derive(Debug)]
pub(crate) struct DecoderWithHead {
    pub(crate) decoder: Decoder,
    pub(crate) lm_head: Arc<dyn LinearLayer>,
}

impl TextDecoder for DecoderWithHead {
    fn shape(&self) -> DecoderShape {
        DecoderShape {
            layers: self.decoder.layers.len(),
            hidden_size: self.lm_head.in_features(),
            vocab_size: self.lm_head.out_features(),
        }
    }

    fn step(&self, text: &Tensor, caches: &[KeyValueCache], rows: &DecodingRows) -> Result<Tensor> {
        let hidden_states = self.decoder.step(text, caches, rows)?;
        let last = hidden_states.narrow(1, hidden_states.dim(1)? - 1, 1)?.squeeze(1)?;
        Ok(self.lm_head.forward(&last.contiguous()?, &ForwardContext::inference())?)
    }
}

/// A post-norm layer, at `path` in the checkpoint.
fn load_layer(config: &GitConfig, path: &str, loader: &mut Loader<'_>) -> Result<TransformerLayer> {
    let attention = format!("{path}.attention");
    let dropout = |path: String| Dropout::new(&format!("{path}.dropout"), config.hidden_dropout_prob);
    Ok(TransformerLayer {
        heads: config.num_attention_heads,
        norm_first: false,
        query: loader.linear(&format!("{attention}.self.query"))?,
        key: loader.linear(&format!("{attention}.self.key"))?,
        value: loader.linear(&format!("{attention}.self.value"))?,
        attention_dropout: Dropout::new(
            &format!("{attention}.self.dropout"),
            config.attention_probs_dropout_prob,
        )?,
        attention_output: loader.linear(&format!("{attention}.output.dense"))?,
        attention_output_dropout: dropout(format!("{attention}.output"))?,
        attention_norm: loader.layer_norm(&format!("{attention}.output.LayerNorm"), config.layer_norm_eps)?,
        intermediate: loader.linear(&format!("{path}.intermediate.dense"))?,
        activation: config.hidden_act,
        output: loader.linear(&format!("{path}.output.dense"))?,
        output_dropout: dropout(format!("{path}.output"))?,
        output_norm: loader.layer_norm(&format!("{path}.output.LayerNorm"), config.layer_norm_eps)?,
        recompute: loader.gradient_checkpointing(),
    })
}
