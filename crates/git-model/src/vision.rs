use candle_core::Tensor;
use caption_model::{Loader, PatchEmbedding};
use train_ops::{AttentionMask, Dropout, ForwardContext, LayerNorm, TransformerLayer};

use crate::schema::VISION;
use crate::{Result, VisionConfig};

/// GIT's image encoder: CLIP's vision transformer (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>) with its last
/// layer norm applied to every token.
#[derive(Debug)]
pub struct VisionEncoder {
    config: VisionConfig,
    class_embedding: Tensor,
    patch_embedding: PatchEmbedding,
    position_embedding: Tensor,
    pre_layer_norm: LayerNorm,
    layers: Vec<TransformerLayer>,
    post_layer_norm: LayerNorm,
}

impl VisionEncoder {
    pub(crate) fn load(config: &VisionConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let eps = config.layer_norm_eps;
        Ok(Self {
            class_embedding: loader.parameter(&format!("{VISION}.embeddings.class_embedding"))?,
            patch_embedding: PatchEmbedding::load(
                &format!("{VISION}.embeddings.patch_embedding"),
                false,
                config.image_size,
                loader,
            )?,
            position_embedding: loader
                .parameter(&format!("{VISION}.embeddings.position_embedding.weight"))?,
            // Spelled like this in every checkpoint.
            pre_layer_norm: loader.layer_norm(&format!("{VISION}.pre_layrnorm"), eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| load_layer(config, &format!("{VISION}.encoder.layers.{layer}"), loader))
                .collect::<Result<_>>()?,
            post_layer_norm: loader.layer_norm(&format!("{VISION}.post_layernorm"), eps)?,
            config: config.clone(),
        })
    }

    /// Encodes `pixel_values` of shape `(batch, channels, image_size, image_size)` into
    /// `(batch, 1 + patches, hidden_size)`: the class token, then the patches row by row.
    ///
    /// # Errors
    /// If `pixel_values` has another shape.
    pub fn forward(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let patches = self.patch_embedding.forward(pixel_values, ctx)?;
        let batch = patches.dim(0)?;
        let class = ctx.parameter(&self.class_embedding);
        let class = class.reshape((1, 1, ()))?.broadcast_as((batch, 1, self.config.hidden_size))?;
        let embeddings = Tensor::cat(&[&class.contiguous()?, &patches], 1)?;
        let embeddings = embeddings.broadcast_add(&ctx.parameter(&self.position_embedding))?;
        let mut hidden_states = self.pre_layer_norm.forward(&embeddings, ctx)?;
        if let Some(layer) = self.layers.first() {
            hidden_states = layer.as_activations(&hidden_states, ctx)?;
        }
        for layer in &self.layers {
            hidden_states = layer.forward(&ctx.cut(&hidden_states)?, AttentionMask::Full, ctx)?;
        }
        let features = self.post_layer_norm.forward(&hidden_states, ctx)?;
        Ok(features.to_dtype(embeddings.dtype())?)
    }
}

/// A pre-norm layer, at `path` in the checkpoint.
fn load_layer(config: &VisionConfig, path: &str, loader: &mut Loader<'_>) -> Result<TransformerLayer> {
    let none = |name: &str| Dropout::new(&format!("{path}.{name}.dropout"), 0.0);
    Ok(TransformerLayer {
        heads: config.num_attention_heads,
        norm_first: true,
        query: loader.linear(&format!("{path}.self_attn.q_proj"))?,
        key: loader.linear(&format!("{path}.self_attn.k_proj"))?,
        value: loader.linear(&format!("{path}.self_attn.v_proj"))?,
        attention_dropout: Dropout::new(&format!("{path}.self_attn.dropout"), config.attention_dropout)?,
        attention_output: loader.linear(&format!("{path}.self_attn.out_proj"))?,
        attention_output_dropout: none("self_attn.out_proj")?,
        attention_norm: loader.layer_norm(&format!("{path}.layer_norm1"), config.layer_norm_eps)?,
        intermediate: loader.linear(&format!("{path}.mlp.fc1"))?,
        activation: config.hidden_act,
        output: loader.linear(&format!("{path}.mlp.fc2"))?,
        output_dropout: none("mlp")?,
        output_norm: loader.layer_norm(&format!("{path}.layer_norm2"), config.layer_norm_eps)?,
        recompute: loader.gradient_checkpointing(),
    })
}
