//! BERT for masked language modelling (Devlin et al., 2018).

use candle_core::{D, Result, Tensor};
use serde::Deserialize;
use trainable_nn::{
    Activation, Dropout, Embedding, LayerNorm, Linear, Module, VarBuilder, embedding, layer_norm, linear, ops,
};

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: Activation,
    pub(crate) hidden_dropout_prob: f32,
    pub(crate) max_position_embeddings: usize,
    pub(crate) type_vocab_size: usize,
    pub(crate) layer_norm_eps: f64,
}

struct Embeddings {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Embeddings {
    fn load(vb: VarBuilder, config: &Config) -> Result<Self> {
        let size = config.hidden_size;
        Ok(Self {
            words: embedding(config.vocab_size, size, vb.pp("word_embeddings"))?,
            positions: embedding(config.max_position_embeddings, size, vb.pp("position_embeddings"))?,
            token_types: embedding(config.type_vocab_size, size, vb.pp("token_type_embeddings"))?,
            norm: layer_norm(size, config.layer_norm_eps, vb.pp("LayerNorm"))?,
            dropout: Dropout::new(config.hidden_dropout_prob),
        })
    }

    fn forward(&self, ids: &Tensor, train: bool) -> Result<Tensor> {
        let positions = Tensor::arange(0, ids.dim(1)? as u32, ids.device())?;
        let words = (self.words.forward(ids)? + self.token_types.forward(&ids.zeros_like()?)?)?;
        let sum = words.broadcast_add(&self.positions.forward(&positions)?)?;
        self.dropout.forward(&self.norm.forward(&sum)?, train)
    }
}

struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
}

impl SelfAttention {
    fn load(vb: VarBuilder, config: &Config) -> Result<Self> {
        let size = config.hidden_size;
        Ok(Self {
            query: linear(size, size, vb.pp("query"))?,
            key: linear(size, size, vb.pp("key"))?,
            value: linear(size, size, vb.pp("value"))?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, xs: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, tokens, size) = xs.dims3()?;
        let split = |xs: Tensor| {
            xs.reshape((batch, tokens, self.heads, size / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let (query, key) = (split(self.query.forward(xs)?)?, split(self.key.forward(xs)?)?);
        let value = split(self.value.forward(xs)?)?;
        let scores = (query.matmul(&key.t()?)? / ((size / self.heads) as f64).sqrt())?;
        let probabilities = ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        probabilities.matmul(&value)?.transpose(1, 2)?.flatten_from(D::Minus2)
    }
}

/// A projection that is added to the input of its block and normalised.
struct Output {
    dense: Linear,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Output {
    fn load(in_size: usize, vb: VarBuilder, config: &Config) -> Result<Self> {
        Ok(Self {
            dense: linear(in_size, config.hidden_size, vb.pp("dense"))?,
            norm: layer_norm(config.hidden_size, config.layer_norm_eps, vb.pp("LayerNorm"))?,
            dropout: Dropout::new(config.hidden_dropout_prob),
        })
    }

    fn forward(&self, xs: &Tensor, input: &Tensor, train: bool) -> Result<Tensor> {
        let xs = self.dropout.forward(&self.dense.forward(xs)?, train)?;
        self.norm.forward(&(xs + input)?)
    }
}

struct Layer {
    attention: SelfAttention,
    attention_output: Output,
    intermediate: Linear,
    act: Activation,
    output: Output,
}

impl Layer {
    fn load(vb: VarBuilder, config: &Config) -> Result<Self> {
        let (size, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            attention: SelfAttention::load(vb.pp("attention.self"), config)?,
            attention_output: Output::load(size, vb.pp("attention.output"), config)?,
            intermediate: linear(size, inner, vb.pp("intermediate.dense"))?,
            act: config.hidden_act,
            output: Output::load(inner, vb.pp("output"), config)?,
        })
    }

    fn forward(&self, xs: &Tensor, mask: &Tensor, train: bool) -> Result<Tensor> {
        let attended = self.attention_output.forward(&self.attention.forward(xs, mask)?, xs, train)?;
        let inner = self.intermediate.forward(&attended)?.apply(&self.act)?;
        self.output.forward(&inner, &attended, train)
    }
}

pub(crate) struct BertForMaskedLM {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    transform: Linear,
    transform_act: Activation,
    transform_norm: LayerNorm,
    decoder: Linear,
}

impl BertForMaskedLM {
    pub(crate) fn load(vb: VarBuilder, config: &Config) -> Result<Self> {
        let embeddings = Embeddings::load(vb.pp("bert.embeddings"), config)?;
        let layers = vb.pp("bert.encoder.layer");
        let head = vb.pp("cls.predictions");
        let bias = head.get(config.vocab_size, "bias")?;
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(layers.pp(index), config))
                .collect::<Result<_>>()?,
            transform: linear(config.hidden_size, config.hidden_size, head.pp("transform.dense"))?,
            transform_act: config.hidden_act,
            transform_norm: layer_norm(
                config.hidden_size,
                config.layer_norm_eps,
                head.pp("transform.LayerNorm"),
            )?,
            decoder: Linear::new(embeddings.words.embeddings().clone(), Some(bias)),
            embeddings,
        })
    }

    /// `ids` `(batch, tokens)`, `mask` of the same shape with 1 for tokens and 0 for padding.
    pub(crate) fn forward_t(&self, ids: &Tensor, mask: &Tensor, train: bool) -> Result<Tensor> {
        let mask = mask.to_dtype(candle_core::DType::F32)?.unsqueeze(1)?.unsqueeze(1)?;
        let mask = ((1.0 - mask)? * f64::from(f32::MIN))?;
        let mut xs = self.embeddings.forward(ids, train)?;
        for layer in &self.layers {
            xs = layer.forward(&xs, &mask, train)?;
        }
        let xs = self.transform.forward(&xs)?.apply(&self.transform_act)?.apply(&self.transform_norm)?;
        xs.apply(&self.decoder)
    }
}
