use std::sync::Arc;

use candle_core::Tensor;
use caption_model::{Loader, PatchEmbedding};
use train_ops::{
    Activation, AttentionMask, Dropout, ForwardContext, FrozenLinear, LayerNorm, LinearLayer,
    TransformerLayer, as_activations, fused_attention, recompute,
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
        let embeddings = embeddings.broadcast_add(&ctx.parameter(&self.position_embedding))?;
        let mut hidden_states = embeddings.clone();
        if let Some(EncoderLayer { qkv, heads, .. }) = self.layers.first() {
            hidden_states = as_activations(qkv.as_ref(), width / heads.max(&1), &hidden_states, ctx)?;
        }
        for layer in &self.layers {
            hidden_states = layer.forward(&ctx.cut(&hidden_states)?, ctx)?;
        }
        let features = self.post_layer_norm.forward(&hidden_states, ctx)?;
        Ok(features.to_dtype(embeddings.dtype())?)
    }
}

/// A pre-norm layer with one projection for queries, keys and values.
#[derive(Clone, Debug)]
struct EncoderLayer {
    /// The same layer as one operation of the graph, with parts of the frozen `qkv` as query, key and value.
    whole: Option<(FrozenLinear, TransformerLayer)>,
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
        let mut layer = Self {
            whole: None,
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
        };
        layer.whole = layer.in_parts()?;
        Ok(layer)
    }

    /// The frozen `qkv`, and the layer with its parts as query, key and value; `None` if `qkv` cannot be
    /// divided.
    fn in_parts(&self) -> Result<Option<(FrozenLinear, TransformerLayer)>> {
        let Some(qkv) = self.qkv.frozen() else { return Ok(None) };
        let width = qkv.in_features();
        if qkv.out_features() != 3 * width {
            return Ok(None);
        }
        let part = |number: usize| qkv.outputs(number * width..(number + 1) * width);
        let (Some(query), Some(key), Some(value)) = (part(0)?, part(1)?, part(2)?) else { return Ok(None) };
        let none = Dropout::new("", 0.0)?;
        let layer = TransformerLayer {
            heads: self.heads,
            norm_first: true,
            query: Arc::new(query),
            key: Arc::new(key),
            value: Arc::new(value),
            attention_dropout: self.attention_dropout.clone(),
            attention_output: self.projection.clone(),
            attention_output_dropout: none.clone(),
            attention_norm: self.attention_norm.clone(),
            intermediate: self.fc1.clone(),
            activation: self.activation,
            output: self.fc2.clone(),
            output_dropout: none,
            output_norm: self.mlp_norm.clone(),
            recompute: self.recompute,
        };
        Ok(Some((qkv, layer)))
    }

    /// [`whole`](Self::whole), if in this pass `qkv` is frozen, has no adapter, and is still the layer from
    /// which `whole` was made.
    fn whole(&self, ctx: &ForwardContext) -> Result<Option<&TransformerLayer>> {
        let (Some((frozen, whole)), Some(qkv)) = (&self.whole, self.qkv.adapted(ctx)?) else {
            return Ok(None);
        };
        Ok((!qkv.has_adapter() && qkv.base().shares_weight(frozen)).then_some(whole))
    }

    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        if let Some(whole) = self.whole(ctx)? {
            return Ok(whole.forward(xs, AttentionMask::Full, ctx)?);
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{DType, Device, Var};

    use super::*;

    fn waves(shape: &[usize], frequency: f64) -> Tensor {
        let count = shape.iter().product::<usize>() as f32;
        let places = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
        (places.affine(frequency, 0.3).unwrap().sin().unwrap() * 0.2).unwrap().reshape(shape).unwrap()
    }

    fn linear(path: &str, inputs: usize, outputs: usize) -> Arc<dyn LinearLayer> {
        let (weight, bias) = (waves(&[outputs, inputs], 7.3), waves(&[outputs], 1.7));
        Arc::new(FrozenLinear::new(path, weight, Some(bias)).unwrap())
    }

    fn layer(width: usize) -> EncoderLayer {
        let norm = || {
            let one = Tensor::ones(width, DType::F32, &Device::Cpu).unwrap();
            LayerNorm::new("norm", (one + waves(&[width], 0.9)).unwrap(), waves(&[width], 2.9), 1e-5).unwrap()
        };
        let mut layer = EncoderLayer {
            whole: None,
            heads: 4,
            attention_norm: norm(),
            qkv: linear("qkv", width, 3 * width),
            attention_dropout: Dropout::new("dropout", 0.1).unwrap(),
            projection: linear("projection", width, width),
            mlp_norm: norm(),
            fc1: linear("fc1", width, 2 * width),
            activation: Activation::Gelu,
            fc2: linear("fc2", 2 * width, width),
            recompute: false,
        };
        layer.whole = layer.in_parts().unwrap();
        layer
    }

    fn largest(tensor: &Tensor) -> f32 {
        tensor.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// With dropout, whose mask is the same in both.
    #[test]
    fn a_layer_with_a_frozen_qkv_is_one_operation_with_the_same_result_and_gradient() {
        let layer = layer(96);
        let xs = Var::from_tensor(&waves(&[2, 5, 96], 3.1)).unwrap();
        let ctx = ForwardContext::training([3, 4]);
        let whole = layer.whole(&ctx).unwrap().expect("parts of 96 outputs");
        let results = [whole.forward(&xs, AttentionMask::Full, &ctx), layer.run(&xs, &ctx)];
        let [(ys, gradient), (expected_ys, expected_gradient)] = results.map(|ys| {
            let ys = ys.unwrap();
            let gradients = (&ys * waves(&[2, 5, 96], 5.7)).unwrap().sum_all().unwrap().backward().unwrap();
            (ys, gradients.get(&xs).unwrap().clone())
        });
        assert!(largest(&(&ys - &expected_ys).unwrap()) < 1e-5 * largest(&expected_ys));
        let error = largest(&(gradient - &expected_gradient).unwrap());
        assert!(error < 1e-5 * largest(&expected_gradient), "{error:e}");
    }

    #[test]
    fn another_weight_of_qkv_is_used_in_place_of_the_parts() {
        let mut layer = layer(96);
        layer.qkv = linear("other", 96, 288);
        assert!(layer.whole(&ForwardContext::inference()).unwrap().is_none());
    }
}
