use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{Activation, AttentionMask, Dropout, LayerNorm, LinearLayer, Pass, attention, recompute};

use crate::loader::Loader;
use crate::schema::VISION;
use crate::{Error, Result, VisionConfig};

/// GIT's image encoder: CLIP's vision transformer (Radford et al., 2021) up to and with its last layer norm, which it
/// applies to every token.
#[derive(Debug)]
pub struct VisionEncoder {
    config: VisionConfig,
    class_embedding: Tensor,
    /// `(hidden, channels, patch, patch)`.
    patch_embedding: Tensor,
    position_embedding: Tensor,
    pre_layer_norm: LayerNorm,
    layers: Vec<Arc<VisionLayer>>,
    post_layer_norm: LayerNorm,
    gradient_checkpointing: bool,
}

impl VisionEncoder {
    pub(crate) fn load(config: &VisionConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let eps = config.layer_norm_eps;
        Ok(Self {
            class_embedding: loader.parameter(&format!("{VISION}.embeddings.class_embedding"))?,
            patch_embedding: loader.parameter(&format!("{VISION}.embeddings.patch_embedding.weight"))?,
            position_embedding: loader
                .parameter(&format!("{VISION}.embeddings.position_embedding.weight"))?,
            // Spelled like this in every checkpoint.
            pre_layer_norm: loader.layer_norm(&format!("{VISION}.pre_layrnorm"), eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| {
                    VisionLayer::load(config, &format!("{VISION}.encoder.layers.{layer}"), loader)
                        .map(Arc::new)
                })
                .collect::<Result<_>>()?,
            post_layer_norm: loader.layer_norm(&format!("{VISION}.post_layernorm"), eps)?,
            gradient_checkpointing: loader.gradient_checkpointing,
            config: config.clone(),
        })
    }

    /// Encodes `pixel_values` of shape `(batch, channels, image_size, image_size)` into
    /// `(batch, 1 + patches, hidden_size)`: the class token, then the patches row by row.
    pub fn forward(&self, pixel_values: &Tensor, pass: &Pass) -> Result<Tensor> {
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
        let patches = self.embed_patches(pixel_values, pass)?;
        let class = pass.parameter(&self.class_embedding);
        let class = class.reshape((1, 1, ()))?.broadcast_as((batch, 1, self.config.hidden_size))?;
        let embeddings = Tensor::cat(&[&class.contiguous()?, &patches], 1)?;
        let embeddings = embeddings.broadcast_add(&pass.parameter(&self.position_embedding))?;
        let mut hidden_states = self.pre_layer_norm.forward(&embeddings, pass)?;
        for layer in &self.layers {
            hidden_states = if self.gradient_checkpointing && pass.is_training() {
                let (segment, pass) = (layer.clone(), pass.clone());
                let forward = move |hidden_states: &Tensor| segment.forward(hidden_states, &pass);
                recompute(&layer.parameters(), &hidden_states, forward)?
            } else {
                layer.forward(&hidden_states, pass)?
            };
        }
        Ok(self.post_layer_norm.forward(&hidden_states, pass)?)
    }

    /// The convolution whose stride is its kernel, as one matrix product over the patches.
    fn embed_patches(&self, pixel_values: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (batch, channels, _, _) = pixel_values.dims4()?;
        let patch = self.config.patch_size;
        let grid = self.config.image_size / patch;
        let patches = pixel_values
            .narrow(2, 0, grid * patch)?
            .narrow(3, 0, grid * patch)?
            .reshape(&[batch, channels, grid, patch, grid, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((batch * grid * grid, channels * patch * patch))?;
        let weight = pass.parameter(&self.patch_embedding).reshape((self.config.hidden_size, ()))?;
        Ok(patches.matmul(&weight.t()?)?.reshape((batch, grid * grid, self.config.hidden_size))?)
    }
}

/// A pre-norm transformer layer.
#[derive(Debug)]
struct VisionLayer {
    heads: usize,
    layer_norm1: LayerNorm,
    q_proj: Arc<dyn LinearLayer>,
    k_proj: Arc<dyn LinearLayer>,
    v_proj: Arc<dyn LinearLayer>,
    attention_dropout: Dropout,
    out_proj: Arc<dyn LinearLayer>,
    layer_norm2: LayerNorm,
    fc1: Arc<dyn LinearLayer>,
    activation: Activation,
    fc2: Arc<dyn LinearLayer>,
}

impl VisionLayer {
    fn load(config: &VisionConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            heads: config.num_attention_heads,
            layer_norm1: loader.layer_norm(&format!("{path}.layer_norm1"), config.layer_norm_eps)?,
            q_proj: loader.linear(&format!("{path}.self_attn.q_proj"))?,
            k_proj: loader.linear(&format!("{path}.self_attn.k_proj"))?,
            v_proj: loader.linear(&format!("{path}.self_attn.v_proj"))?,
            attention_dropout: Dropout::new(&format!("{path}.self_attn.dropout"), config.attention_dropout)?,
            out_proj: loader.linear(&format!("{path}.self_attn.out_proj"))?,
            layer_norm2: loader.layer_norm(&format!("{path}.layer_norm2"), config.layer_norm_eps)?,
            fc1: loader.linear(&format!("{path}.mlp.fc1"))?,
            activation: config.hidden_act,
            fc2: loader.linear(&format!("{path}.mlp.fc2"))?,
        })
    }

    /// The trainable parameters of the layer.
    fn parameters(&self) -> Vec<Tensor> {
        let linear = [&self.q_proj, &self.k_proj, &self.v_proj, &self.out_proj, &self.fc1, &self.fc2];
        let norms = [&self.layer_norm1, &self.layer_norm2];
        let mut parameters: Vec<Tensor> = linear.into_iter().flat_map(|linear| linear.parameters()).collect();
        parameters.extend(norms.into_iter().flat_map(LayerNorm::parameters));
        parameters
    }

    fn forward(&self, hidden_states: &Tensor, pass: &Pass) -> Result<Tensor> {
        let normed = self.layer_norm1.forward(hidden_states, pass)?;
        let context = attention(
            &self.q_proj.forward(&normed, pass)?,
            &self.k_proj.forward(&normed, pass)?,
            &self.v_proj.forward(&normed, pass)?,
            self.heads,
            AttentionMask::Full,
            &self.attention_dropout,
            pass,
        )?;
        let hidden_states = (hidden_states + self.out_proj.forward(&context, pass)?)?;
        let normed = self.layer_norm2.forward(&hidden_states, pass)?;
        let inner = self.activation.forward(&self.fc1.forward(&normed, pass)?)?;
        Ok((hidden_states + self.fc2.forward(&inner, pass)?)?)
    }
}
