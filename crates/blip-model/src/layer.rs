use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{LayerMap, Loader};
use train_ops::{
    Activation, AttentionMask, DecodingRows, Dropout, ForwardContext, KeyValueCache, LayerNorm, LinearLayer,
    attention, cached_cross_attention, cached_self_attention, recompute,
};

use crate::{Result, TextConfig};

/// A layer of BLIP's text decoder, BERT's with cross-attention: self-attention over the text, attention to the image, and an
/// MLP, each with its residual before its norm.
#[derive(Clone, Debug)]
pub(crate) struct DecoderLayer {
    heads: usize,
    attention: Attention,
    cross_attention: Attention,
    intermediate: Arc<dyn LinearLayer>,
    activation: Activation,
    output: Residual,
    recompute: bool,
}

#[derive(Clone, Debug)]
struct Attention {
    query: Arc<dyn LinearLayer>,
    key: Arc<dyn LinearLayer>,
    value: Arc<dyn LinearLayer>,
    /// On the probabilities.
    dropout: Dropout,
    output: Residual,
}

/// `norm(x + dropout(dense(y)))`, the end of every block.
#[derive(Clone, Debug)]
struct Residual {
    dense: Arc<dyn LinearLayer>,
    dropout: Dropout,
    norm: LayerNorm,
}

impl DecoderLayer {
    /// The layer at `path` in the checkpoint.
    pub(crate) fn load(config: &TextConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            heads: config.num_attention_heads,
            attention: Attention::load(config, &format!("{path}.attention"), loader)?,
            cross_attention: Attention::load(config, &format!("{path}.crossattention"), loader)?,
            intermediate: loader.linear(&format!("{path}.intermediate.dense"))?,
            activation: config.hidden_act,
            output: Residual::load(config, &format!("{path}.output"), loader)?,
            recompute: loader.gradient_checkpointing(),
        })
    }

    /// From text `(batch, text, hidden)` and the image's features `(batch, tokens, vision_hidden)` to `(batch, text, hidden)`.
    pub(crate) fn forward(&self, text: &Tensor, image: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        if !self.recompute || !ctx.is_training() {
            return Ok(self.run(text, image, ctx)?);
        }
        let (layer, ctx, parameters) = (self.clone(), ctx.clone(), self.parameters());
        if !image.track_op() {
            let image = image.clone();
            return Ok(recompute(&parameters, text, move |text| layer.run(text, &image, &ctx))?);
        }
        // A recomputed segment has one input: both in one row.
        let shapes = [text.shape().clone(), image.shape().clone()];
        let both = Tensor::cat(&[text.flatten_all()?, image.flatten_all()?], 0)?;
        Ok(recompute(&parameters, &both, move |both| {
            let [text, image] = &shapes;
            let [at, count] = [text.elem_count(), image.elem_count()];
            let (text, image) =
                (both.narrow(0, 0, at)?.reshape(text)?, both.narrow(0, at, count)?.reshape(image)?);
            layer.run(&text, &image, &ctx)
        })?)
    }

    fn run(&self, text: &Tensor, image: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let own = &self.attention;
        let (query, key, value) =
            (own.query.forward(text, ctx)?, own.key.forward(text, ctx)?, own.value.forward(text, ctx)?);
        let causal = AttentionMask::CausalAfterPrefix { prefix: 0, first_query: 0 };
        let context = attention(&query, &key, &value, self.heads, causal, &own.dropout, ctx)?;
        let text = own.output.forward(&context, text, ctx)?;

        let cross = &self.cross_attention;
        let (key, value) = (cross.key.forward(image, ctx)?, cross.value.forward(image, ctx)?);
        let query = cross.query.forward(&text, ctx)?;
        let full = AttentionMask::Full;
        let context = attention(&query, &key, &value, self.heads, full, &cross.dropout, ctx)?;
        self.mlp(&cross.output.forward(&context, &text, ctx)?, ctx)
    }

    fn mlp(&self, text: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let inner = self.activation.forward(&self.intermediate.forward(text, ctx)?)?;
        self.output.forward(&inner, text, ctx)
    }

    /// A cache with the keys and values of images for cross-attention, and `slots` slots for text tokens of self-attention.
    pub(crate) fn cache(&self, image: &Tensor, slots: usize) -> Result<KeyValueCache> {
        let (ctx, cross) = (ForwardContext::inference(), &self.cross_attention);
        let (key, value) = (cross.key.forward(image, &ctx)?, cross.value.forward(image, &ctx)?);
        Ok(KeyValueCache::new(&key, &value, self.heads, slots)?)
    }

    /// The layer's result for new tokens `(rows, new, hidden)`, the newest of `rows`.
    pub(crate) fn step(
        &self,
        text: &Tensor,
        cache: &KeyValueCache,
        rows: &DecodingRows,
    ) -> train_ops::Result<Tensor> {
        let (ctx, own, cross) = (ForwardContext::inference(), &self.attention, &self.cross_attention);
        cache.write(&own.key.forward(text, &ctx)?, &own.value.forward(text, &ctx)?, rows)?;
        let context = cached_self_attention(&own.query.forward(text, &ctx)?, cache, rows)?;
        let text = own.output.forward(&context, text, &ctx)?;
        let context = cached_cross_attention(&cross.query.forward(&text, &ctx)?, cache, rows)?;
        self.mlp(&cross.output.forward(&context, &text, &ctx)?, &ctx)
    }

    /// The layer with `map` applied to each of its linear layers.
    pub(crate) fn map_linear(&self, map: LayerMap) -> train_ops::Result<Self> {
        Ok(Self {
            attention: self.attention.map_linear(map)?,
            cross_attention: self.cross_attention.map_linear(map)?,
            intermediate: map(&self.intermediate)?,
            output: self.output.map_linear(map)?,
            ..self.clone()
        })
    }

    fn parameters(&self) -> Vec<Tensor> {
        let attention = [&self.attention, &self.cross_attention];
        let linear = attention.into_iter().flat_map(|part| [&part.query, &part.key, &part.value]);
        let linear = linear.chain([&self.intermediate]).flat_map(|layer| layer.parameters());
        let outputs = attention.into_iter().map(|part| &part.output).chain([&self.output]);
        let outputs =
            outputs.flat_map(|output| [output.dense.parameters(), output.norm.parameters()].concat());
        linear.chain(outputs).collect()
    }
}

impl Attention {
    fn load(config: &TextConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            query: loader.linear(&format!("{path}.self.query"))?,
            key: loader.linear(&format!("{path}.self.key"))?,
            value: loader.linear(&format!("{path}.self.value"))?,
            dropout: Dropout::new(&format!("{path}.self.dropout"), config.attention_probs_dropout_prob)?,
            output: Residual::load(config, &format!("{path}.output"), loader)?,
        })
    }

    fn map_linear(&self, map: LayerMap) -> train_ops::Result<Self> {
        Ok(Self {
            query: map(&self.query)?,
            key: map(&self.key)?,
            value: map(&self.value)?,
            dropout: self.dropout.clone(),
            output: self.output.map_linear(map)?,
        })
    }
}

impl Residual {
    fn load(config: &TextConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            dense: loader.linear(&format!("{path}.dense"))?,
            dropout: Dropout::new(&format!("{path}.dropout"), config.hidden_dropout_prob)?,
            norm: loader.layer_norm(&format!("{path}.LayerNorm"), config.layer_norm_eps)?,
        })
    }

    fn forward(&self, ys: &Tensor, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let ys = self.dropout.forward(&self.dense.forward(ys, ctx)?, ctx)?;
        self.norm.forward(&(xs + ys)?, ctx)
    }

    fn map_linear(&self, map: LayerMap) -> train_ops::Result<Self> {
        Ok(Self { dense: map(&self.dense)?, ..self.clone() })
    }
}
