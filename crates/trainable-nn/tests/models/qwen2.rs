//! Qwen2: a decoder with RMS norm, rotary embedding, grouped-query attention and a gated MLP.

use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;
use trainable_nn::{
    Activation, Embedding, Linear, Module, RmsNorm, VarBuilder, embedding, kv_cache::KvCache, linear_b,
    linear_no_bias, ops, rms_norm, rotary_emb::rope,
};

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_key_value_heads: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) rms_norm_eps: f64,
    pub(crate) hidden_act: Activation,
    pub(crate) rope_parameters: RopeParameters,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RopeParameters {
    pub(crate) rope_theta: f64,
}

struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    fn new(config: &Config, device: &Device) -> Result<Self> {
        let head_dim = config.hidden_size / config.num_attention_heads;
        let theta = config.rope_parameters.rope_theta;
        let inverse: Vec<f32> =
            (0..head_dim).step_by(2).map(|i| theta.powf(-(i as f64) / head_dim as f64) as f32).collect();
        let inverse = Tensor::from_vec(inverse, (1, head_dim / 2), device)?;
        let positions = Tensor::arange(0, config.max_position_embeddings as u32, device)?;
        let angles = positions.to_dtype(DType::F32)?.unsqueeze(1)?.matmul(&inverse)?;
        Ok(Self { cos: angles.cos()?, sin: angles.sin()? })
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    cache: KvCache,
}

impl Attention {
    fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let (size, heads, kv_heads) =
            (config.hidden_size, config.num_attention_heads, config.num_key_value_heads);
        let head_dim = size / heads;
        Ok(Self {
            q_proj: linear_b(size, size, true, vb.pp("q_proj"))?,
            k_proj: linear_b(size, kv_heads * head_dim, true, vb.pp("k_proj"))?,
            v_proj: linear_b(size, kv_heads * head_dim, true, vb.pp("v_proj"))?,
            o_proj: linear_no_bias(size, size, vb.pp("o_proj"))?,
            heads,
            kv_heads,
            head_dim,
            cache: KvCache::new(2, config.max_position_embeddings),
        })
    }

    fn forward(
        &mut self,
        xs: &Tensor,
        rotary: &Rotary,
        mask: Option<&Tensor>,
        offset: usize,
    ) -> Result<Tensor> {
        let (batch, tokens, _) = xs.dims3()?;
        let split = |xs: Tensor, heads: usize| {
            xs.reshape((batch, tokens, heads, self.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let q = split(self.q_proj.forward(xs)?, self.heads)?;
        let k = split(self.k_proj.forward(xs)?, self.kv_heads)?;
        let v = split(self.v_proj.forward(xs)?, self.kv_heads)?;
        let (cos, sin) = (rotary.cos.narrow(0, offset, tokens)?, rotary.sin.narrow(0, offset, tokens)?);
        let (q, k) = (rope(&q, &cos, &sin)?, rope(&k, &cos, &sin)?);
        let (k, v) = self.cache.append(&k, &v)?;
        let groups = self.heads / self.kv_heads;
        let repeat = |xs: Tensor| {
            let (batch, heads, keys, head_dim) = xs.dims4()?;
            Tensor::cat(&vec![&xs; groups], 2)?.reshape((batch, heads * groups, keys, head_dim))
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let scores = (q.matmul(&k.transpose(2, 3)?)? / (self.head_dim as f64).sqrt())?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let context = ops::softmax_last_dim(&scores)?.matmul(&v)?;
        context.transpose(1, 2)?.reshape((batch, tokens, ()))?.apply(&self.o_proj)
    }
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    act: Activation,
}

impl Mlp {
    fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let (size, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: linear_no_bias(size, inner, vb.pp("gate_proj"))?,
            up_proj: linear_no_bias(size, inner, vb.pp("up_proj"))?,
            down_proj: linear_no_bias(inner, size, vb.pp("down_proj"))?,
            act: config.hidden_act,
        })
    }
}

impl Module for Mlp {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let gate = xs.apply(&self.gate_proj)?.apply(&self.act)?;
        (gate * xs.apply(&self.up_proj)?)?.apply(&self.down_proj)
    }
}

struct Layer {
    attention: Attention,
    mlp: Mlp,
    input_norm: RmsNorm,
    post_attention_norm: RmsNorm,
}

impl Layer {
    fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let norm = |name| rms_norm(config.hidden_size, config.rms_norm_eps, vb.pp(name));
        Ok(Self {
            attention: Attention::new(config, vb.pp("self_attn"))?,
            mlp: Mlp::new(config, vb.pp("mlp"))?,
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
        })
    }

    fn forward(
        &mut self,
        xs: &Tensor,
        rotary: &Rotary,
        mask: Option<&Tensor>,
        offset: usize,
    ) -> Result<Tensor> {
        let attended = self.attention.forward(&self.input_norm.forward(xs)?, rotary, mask, offset)?;
        let xs = (xs + attended)?;
        let projected = xs.apply(&self.post_attention_norm)?.apply(&self.mlp)?;
        xs + projected
    }
}

pub(crate) struct ModelForCausalLM {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Linear,
    rotary: Rotary,
}

impl ModelForCausalLM {
    pub(crate) fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let model = vb.pp("model");
        let embed_tokens = embedding(config.vocab_size, config.hidden_size, model.pp("embed_tokens"))?;
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::new(config, model.pp("layers").pp(index)))
                .collect::<Result<_>>()?,
            norm: rms_norm(config.hidden_size, config.rms_norm_eps, model.pp("norm"))?,
            lm_head: Linear::new(embed_tokens.embeddings().clone(), None),
            rotary: Rotary::new(config, vb.device())?,
            embed_tokens,
        })
    }

    /// Logits of all tokens `(batch, tokens)`, which follow `offset` earlier ones.
    pub(crate) fn forward(&mut self, ids: &Tensor, offset: usize) -> Result<Tensor> {
        let tokens = ids.dim(1)?;
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|query| {
                (0..offset + tokens)
                    .map(move |key| if key > offset + query { f32::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        let mask = (tokens > 1)
            .then(|| Tensor::from_vec(mask, (tokens, offset + tokens), ids.device()))
            .transpose()?;
        let mut xs = self.embed_tokens.forward(ids)?;
        for layer in &mut self.layers {
            xs = layer.forward(&xs, &self.rotary, mask.as_ref(), offset)?;
        }
        xs.apply(&self.norm)?.apply(&self.lm_head)
    }

    pub(crate) fn clear_kv_cache(&mut self) {
        for layer in &mut self.layers {
            layer.attention.cache.reset();
        }
    }
}
