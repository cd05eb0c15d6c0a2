use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{LayerMap, Loader};
use train_ops::{
    Activation, AttentionMask, DecodingRows, Dropout, KeyValueCache, LayerNorm, LinearLayer, Pass, attention,
    cached_cross_attention, cached_self_attention, recompute,
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
    pub(crate) fn forward(&self, text: &Tensor, image: &Tensor, pass: &Pass) -> Result<Tensor> {
        if !self.recompute || !pass.is_training() {
            return Ok(self.run(text, image, pass)?);
        }
        let (layer, pass, parameters) = (self.clone(), pass.clone(), self.parameters());
        if !image.track_op() {
            let image = image.clone();
            return Ok(recompute(&parameters, text, move |text| layer.run(text, &image, &pass))?);
        }
        // A recomputed segment has one input: both in one row.
        let shapes = [text.shape().clone(), image.shape().clone()];
        let both = Tensor::cat(&[text.flatten_all()?, image.flatten_all()?], 0)?;
        Ok(recompute(&parameters, &both, move |both| {
            let [text, image] = &shapes;
            let [at, count] = [text.elem_count(), image.elem_count()];
            let (text, image) =
                (both.narrow(0, 0, at)?.reshape(text)?, both.narrow(0, at, count)?.reshape(image)?);
            layer.run(&text, &image, &pass)
        })?)
    }

    fn run(&self, text: &Tensor, image: &Tensor, pass: &Pass) -> train_ops::Result<Tensor> {
        let own = &self.attention;
        let (query, key, value) =
            (own.query.forward(text, pass)?, own.key.forward(text, pass)?, own.value.forward(text, pass)?);
        let causal = AttentionMask::CausalAfterPrefix { prefix: 0, first_query: 0 };
        let context = attention(&query, &key, &value, self.heads, causal, &own.dropout, pass)?;
        let text = own.output.forward(&context, text, pass)?;

        let cross = &self.cross_attention;
        let (key, value) = (cross.key.forward(image, pass)?, cross.value.forward(image, pass)?);
        let query = cross.query.forward(&text, pass)?;
        let full = AttentionMask::Full;
        let context = attention(&query, &key, &value, self.heads, full, &cross.dropout, pass)?;
        self.mlp(&cross.output.forward(&context, &text, pass)?, pass)
    }

    fn mlp(&self, text: &Tensor, pass: &Pass) -> train_ops::Result<Tensor> {
        let inner = self.activation.forward(&self.intermediate.forward(text, pass)?)?;
        self.output.forward(&inner, text, pass)
    }

    /// A cache with the keys and values of images for cross-attention, and `slots` slots for text tokens of self-attention.
    pub(crate) fn cache(&self, image: &Tensor, slots: usize) -> Result<KeyValueCache> {
        let (pass, cross) = (Pass::inference(), &self.cross_attention);
        let (key, value) = (cross.key.forward(image, &pass)?, cross.value.forward(image, &pass)?);
        Ok(KeyValueCache::new(&key, &value, self.heads, slots)?)
    }

    /// The layer's result for new tokens `(rows, new, hidden)`, the newest of `rows`.
    pub(crate) fn step(
        &self,
        text: &Tensor,
        cache: &KeyValueCache,
        rows: &DecodingRows,
    ) -> train_ops::Result<Tensor> {
        let (pass, own, cross) = (Pass::inference(), &self.attention, &self.cross_attention);
        cache.write(&own.key.forward(text, &pass)?, &own.value.forward(text, &pass)?, rows)?;
        let context = cached_self_attention(&own.query.forward(text, &pass)?, cache, rows)?;
        let text = own.output.forward(&context, text, &pass)?;
        let context = cached_cross_attention(&cross.query.forward(&text, &pass)?, cache, rows)?;
        self.mlp(&cross.output.forward(&context, &text, &pass)?, &pass)
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

    fn forward(&self, ys: &Tensor, xs: &Tensor, pass: &Pass) -> train_ops::Result<Tensor> {
        let ys = self.dropout.forward(&self.dense.forward(ys, pass)?, pass)?;
        self.norm.forward(&(xs + ys)?, pass)
    }

    fn map_linear(&self, map: LayerMap) -> train_ops::Result<Self> {
        Ok(Self { dense: map(&self.dense)?, ..self.clone() })
    }
}
