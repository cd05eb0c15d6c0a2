use caption_model::Loader;
use train_ops::{
    CrossAttention, DecoderLayer, DecoderMasks, DecodingRows, Dropout, ForwardContext, KeyValueCache,
    TransformerLayer, cached_cross_attention, cached_self_attention,
};

use candle_core::Tensor;

use crate::{Result, TextConfig};

/// The layer at `path` in the checkpoint: BERT's with cross-attention.
pub(crate) fn load(config: &TextConfig, path: &str, loader: &mut Loader<'_>) -> Result<DecoderLayer> {
    let (own, cross) = (format!("{path}.attention"), format!("{path}.crossattention"));
    let dropout = |path: String| Dropout::new(&format!("{path}.dropout"), config.hidden_dropout_prob);
    let of_probabilities =
        |path: &str| Dropout::new(&format!("{path}.self.dropout"), config.attention_probs_dropout_prob);
    let eps = config.layer_norm_eps;
    let layer = TransformerLayer {
        heads: config.num_attention_heads,
        norm_first: false,
        query: loader.linear(&format!("{own}.self.query"))?,
        key: loader.linear(&format!("{own}.self.key"))?,
        value: loader.linear(&format!("{own}.self.value"))?,
        attention_dropout: of_probabilities(&own)?,
        attention_output: loader.linear(&format!("{own}.output.dense"))?,
        attention_output_dropout: dropout(format!("{own}.output"))?,
        attention_norm: loader.layer_norm(&format!("{own}.output.LayerNorm"), eps)?,
        intermediate: loader.linear(&format!("{path}.intermediate.dense"))?,
        activation: config.hidden_act,
        output: loader.linear(&format!("{path}.output.dense"))?,
        output_dropout: dropout(format!("{path}.output"))?,
        output_norm: loader.layer_norm(&format!("{path}.output.LayerNorm"), eps)?,
        recompute: loader.gradient_checkpointing(),
    };
    let cross = CrossAttention {
        query: loader.linear(&format!("{cross}.self.query"))?,
        key: loader.linear(&format!("{cross}.self.key"))?,
        value: loader.linear(&format!("{cross}.self.value"))?,
        dropout: of_probabilities(&cross)?,
        output: loader.linear(&format!("{cross}.output.dense"))?,
        output_dropout: dropout(format!("{cross}.output"))?,
        norm: loader.layer_norm(&format!("{cross}.output.LayerNorm"), eps)?,
    };
    Ok(DecoderLayer { layer, cross })
}

/// The layers on `text` `(batch, tokens, hidden)` with the states `(batch, tokens, width)` that they attend to.
pub(crate) fn forward_all(
    layers: &[DecoderLayer],
    text: &Tensor,
    states: &Tensor,
    masks: &DecoderMasks,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    let mut hidden_states = as_activations(layers, text, ctx)?;
    let states = ctx.cut(&as_activations(layers, states, ctx)?)?;
    for layer in layers {
        hidden_states = layer.forward(&ctx.cut(&hidden_states)?, &states, masks, ctx)?;
    }
    Ok(ctx.cut(&hidden_states)?.to_dtype(text.dtype())?)
}

/// Converts hidden states to the type in which the layers compute.
pub(crate) fn as_activations(
    layers: &[DecoderLayer],
    hidden_states: &Tensor,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    match layers.first() {
        Some(layer) => Ok(layer.layer.as_activations(hidden_states, ctx)?),
        None => Ok(hidden_states.clone()),
    }
}

/// A cache with the keys and values of `states` `(batch, tokens, width)` for cross-attention, and `slots` slots for text tokens
/// of self-attention.
pub(crate) fn cache(layer: &DecoderLayer, states: &Tensor, slots: usize) -> Result<KeyValueCache> {
    let (ctx, cross) = (ForwardContext::inference(), &layer.cross);
    let (key, value) = (cross.key.forward(states, &ctx)?, cross.value.forward(states, &ctx)?);
    Ok(KeyValueCache::new(&key, &value, layer.layer.heads, slots)?)
}

/// The layer's result for new tokens `(rows, new, hidden)`, the newest of `rows`.
pub(crate) fn step(
    layer: &DecoderLayer,
    text: &Tensor,
    cache: &KeyValueCache,
    rows: &DecodingRows,
) -> train_ops::Result<Tensor> {
    let (ctx, own) = (ForwardContext::inference(), &layer.layer);
    cache.write(&own.key.forward(text, &ctx)?, &own.value.forward(text, &ctx)?, rows)?;
    let context = cached_self_attention(&own.query.forward(text, &ctx)?, cache, rows)?;
    let attended = layer.after_self_attention(&context, text, &ctx)?;
    let context = cached_cross_attention(&layer.cross.query.forward(&attended, &ctx)?, cache, rows)?;
    layer.after_cross_attention(&context, &attended, &ctx)
}
