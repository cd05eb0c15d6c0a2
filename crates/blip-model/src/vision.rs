use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{Loader, PatchEmbedding};
use train_ops::{
    Activation, AttentionMask, Dropout, ForwardContext, LayerNorm, LinearLayer, fused_attention, recompute,
};

use crate::schema::VISION;
use crate::{Result, VisionConfig};

/// BLIP's image encoder: a vision transformer (Dosovitskiy et al., 2020, <https://arxiv.org/abs/2010.11929>) whose last layer
/// norm is applied to every token.
#[derive(Debug)]
pub struct VisionEncoder {
    class_embedding: Tensor,
    patch_embedding: PatchEmbedding,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    post_layer_norm: LayerNorm,
}

impl VisionEncoder {
    pub(crate) fn load(config: &VisionConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let patches = format!("{VISION}.embeddings.patch_embedding");
        Ok(Self {
            class_embedding: loader.parameter(&format!("{VISION}.embeddings.class_embedding"))?,
            patch_embedding: PatchEmbedding::load(&patches, true, config.image_size, loader)?,
            position_embedding: loader.parameter(&format!("{VISION}.embeddings.position_embedding"))?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| EncoderLayer::load(config, &format!("{VISION}.encoder.layers.{layer}"), loader))
                .collect::<Result<_>>()?,
            post_layer_norm: loader.layer_norm(&format!("{VISION}.post_layernorm"), config.layer_norm_eps)?,
        })
    }

    /// Encodes `pixel_values` of shape `(batch, 3, image_size, image_size)` into `(batch, 1 + patches, hidden_size)`: the
    /// class token, then the patches row by row.
    ///
    /// # Errors
    /// If `pixel_values` has another shape.
    pub fn forward(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let patches = self.patch_embedding.forward(pixel_values, ctx)?;
        let (batch, _, width) = patches.dims3()?;
        let class = ctx.parameter(&self.class_embedding).broadcast_as((batch, 1, width))?;
        let embeddings = Tensor::cat(&[&class.contiguous()?, &patches], 1)?;
        let mut hidden_states = embeddings.broadcast_add(&ctx.parameter(&self.position_embedding))?;
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, ctx)?;
        }
        Ok(self.post_layer_norm.forward(&hidden_states, ctx)?)
    }
}

/// A pre-norm layer with one projection for queries, keys and values.
#[derive(Clone, Debug)]
struct EncoderLayer {
    heads: usize,
    attention_norm: LayerNorm,
    qkv: Arc<dyn LinearLayer>,
    attention_dropout: Dropout,
    projection: Arc<dyn LinearLayer>,
    mlp_norm: LayerNorm,
    fc1: Arc<dyn LinearLayer>,
    activation: Activation,
    fc2: Arc<dyn LinearLayer>,
    recompute: bool,
}

impl EncoderLayer {
    fn load(config: &VisionConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            heads: config.num_attention_heads,
            attention_norm: loader.layer_norm(&format!("{path}.layer_norm1"), config.layer_norm_eps)?,
            qkv: loader.linear(&format!("{path}.self_attn.qkv"))?,
            attention_dropout: Dropout::new(&format!("{path}.self_attn.dropout"), config.attention_dropout)?,
            projection: loader.linear(&format!("{path}.self_attn.projection"))?,
            mlp_norm: loader.layer_norm(&format!("{path}.layer_norm2"), config.layer_norm_eps)?,
            fc1: loader.linear(&format!("{path}.mlp.fc1"))?,
            activation: config.hidden_act,
            fc2: loader.linear(&format!("{path}.mlp.fc2"))?,
            recompute: loader.gradient_checkpointing(),
        })
    }

    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        if !self.recompute || !ctx.is_training() {
            return Ok(self.run(xs, ctx)?);
        }
        let (layer, ctx) = (self.clone(), ctx.clone());
        Ok(recompute(&self.parameters(), xs, move |xs| layer.run(xs, &ctx))?)
    }

    fn run(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(xs, ctx)?, ctx)?;
        let context = fused_attention(&qkv, self.heads, AttentionMask::Full, &self.attention_dropout, ctx)?;
        let xs = (xs + self.projection.forward(&context, ctx)?)?;
        let inner = self.fc1.forward(&self.mlp_norm.forward(&xs, ctx)?, ctx)?;
        Ok((&xs + self.fc2.forward(&self.activation.forward(&inner)?, ctx)?)?)
    }

    fn parameters(&self) -> Vec<Tensor> {
        let linear = [&self.qkv, &self.projection, &self.fc1, &self.fc2];
        let norms = [&self.attention_norm, &self.mlp_norm];
        let linear = linear.into_iter().flat_map(|layer| layer.parameters());
        linear.chain(norms.into_iter().flat_map(LayerNorm::parameters)).collect()
    }
}
