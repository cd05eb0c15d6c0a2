use candle_core::Tensor;
use train_ops::{
    AttentionMask, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer, TransformerLayer,
};

use crate::loader::Loader;
use crate::schema::VISION;
use crate::{Error, Result, VisionConfig};

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

/// The convolution's kernel, stored as `(hidden, channels, patch, patch)`.
#[derive(Debug)]
enum PatchEmbedding {
    /// A linear layer over the values of a patch.
    Frozen(FrozenLinear),
    /// A variable of the stored shape.
    Trained(Tensor),
}

impl PatchEmbedding {
    fn load(path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        let kernel = loader.parameter(path)?;
        if kernel.track_op() {
            return Ok(Self::Trained(kernel));
        }
        Ok(Self::Frozen(FrozenLinear::new(path, kernel.flatten_from(1)?, None)?))
    }
}

impl VisionEncoder {
    pub(crate) fn load(config: &VisionConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let eps = config.layer_norm_eps;
        Ok(Self {
            class_embedding: loader.parameter(&format!("{VISION}.embeddings.class_embedding"))?,
            patch_embedding: PatchEmbedding::load(
                &format!("{VISION}.embeddings.patch_embedding.weight"),
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
        let (channels, size) = (self.config.num_channels, self.config.image_size);
        let batch = match pixel_values.dims() {
            &[batch, c, h, w] if (c, h, w) == (channels, size, size) => batch,
            got => {
                return Err(Error::Shape {
                    input: "pixel_values",
                    expected: format!("(batch, {channels}, {size}, {size})"),
                    got: got.to_vec(),
                });
            }
        };
        let patches = self.embed_patches(pixel_values, ctx)?;
        let class = ctx.parameter(&self.class_embedding);
        let class = class.reshape((1, 1, ()))?.broadcast_as((batch, 1, self.config.hidden_size))?;
        let embeddings = Tensor::cat(&[&class.contiguous()?, &patches], 1)?;
        let embeddings = embeddings.broadcast_add(&ctx.parameter(&self.position_embedding))?;
        let mut hidden_states = self.pre_layer_norm.forward(&embeddings, ctx)?;
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, AttentionMask::Full, ctx)?;
        }
        Ok(self.post_layer_norm.forward(&hidden_states, ctx)?)
    }

    /// The patch convolution, whose stride is its kernel size, as one matrix product over the patches.
    fn embed_patches(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let (batch, channels, _, _) = pixel_values.dims4()?;
        let patch = self.config.patch_size;
        let grid = self.config.image_size / patch;
        let patches = pixel_values
            .narrow(2, 0, grid * patch)?
            .narrow(3, 0, grid * patch)?
            .reshape(&[batch, channels, grid, patch, grid, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((batch * grid * grid, channels * patch * patch))?;
        let embedded = match &self.patch_embedding {
            PatchEmbedding::Frozen(layer) => layer.forward(&patches, ctx)?,
            PatchEmbedding::Trained(weight) => {
                patches.matmul(&ctx.parameter(weight).flatten_from(1)?.t()?)?
            }
        };
        Ok(embedded.reshape((batch, grid * grid, self.config.hidden_size))?)
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
        recompute: loader.gradient_checkpointing,
    })
}
