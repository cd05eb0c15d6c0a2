//! A transformer layer as one operation of the graph.

mod backward;
mod cross_rows;
mod decoder;
mod decoder_operation;
mod forward;
mod operation;
mod rows;

use std::sync::Arc;

use candle_core::{DType, Tensor};

pub use decoder::{CrossAttention, DecoderLayer, DecoderMasks};

use crate::{
    Activation, AttentionMask, Dropout, ForwardContext, LayerNorm, LinearLayer, Result, attention, cuda,
    host, recompute,
};

/// A layer of a transformer (Vaswani et al., 2017): attention and a feed-forward block (MLP) of two layers, each with a residual
/// connection and a norm.
///
/// ```text
/// norm_first:  r = x + attention(norm(x))      y = r + MLP(norm(r))          CLIP, as every recent transformer
/// otherwise:   r = norm(x + attention(x))      y = norm(r + MLP(r))          BERT
/// ```
///
/// with dropout on the output of each branch and on the attention's probabilities. A layer whose linear layers
/// are frozen, with adapters or without, and in host memory is one operation of the graph: its backward pass is
/// written by hand, sums gradients in place, and frees activations as it uses them. All other layers are
/// composed of this crate's operations, with the same result except for rounding.
#[derive(Clone, Debug)]
pub struct TransformerLayer {
    /// Number of attention heads.
    pub heads: usize,
    /// Whether the norms come before attention and MLP, as in CLIP, or after the sums, as in BERT.
    pub norm_first: bool,
    /// Projects to queries.
    pub query: Arc<dyn LinearLayer>,
    /// Projects to keys.
    pub key: Arc<dyn LinearLayer>,
    /// Projects to values.
    pub value: Arc<dyn LinearLayer>,
    /// Dropout on the attention's probabilities.
    pub attention_dropout: Dropout,
    /// Projects the concatenated heads.
    pub attention_output: Arc<dyn LinearLayer>,
    /// Dropout on the output of attention.
    pub attention_output_dropout: Dropout,
    /// The norm of attention's input or sum.
    pub attention_norm: LayerNorm,
    /// The MLP's first layer.
    pub intermediate: Arc<dyn LinearLayer>,
    /// Its non-linearity.
    pub activation: Activation,
    /// Its second layer.
    pub output: Arc<dyn LinearLayer>,
    /// Dropout on the output of the MLP.
    pub output_dropout: Dropout,
    /// The norm of the MLP's input or sum.
    pub output_norm: LayerNorm,
    /// Gradient checkpointing: a training pass saves only the layer's input, and its backward pass computes the rest again; see [`recompute`](crate::recompute).
    pub recompute: bool,
}

/// Converts hidden states of any shape to the type in which a transformer layer with the projection `linear`
/// and heads of `head_dim` features computes best: see [`TransformerLayer::as_activations`].
pub fn as_activations(
    linear: &dyn LinearLayer,
    head_dim: usize,
    hidden_states: &Tensor,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    match linear.adapted(ctx)? {
        Some(linear) if cuda::computes_in_bf16(linear.base(), head_dim)? => {
            Ok(hidden_states.to_dtype(DType::BF16)?)
        }
        _ => Ok(hidden_states.clone()),
    }
}

impl TransformerLayer {
    /// The layer on `hidden_states` `(batch, tokens, features)`. If the first query of the mask is a later
    /// token, the result has only the tokens from that one on; the tokens before it are used as keys and
    /// values.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        mask: AttentionMask,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        if let Some(result) = self.as_operation(hidden_states, mask, ctx)? {
            return Ok(result);
        }
        if self.recompute && ctx.is_training() {
            let (layer, ctx) = (self.clone(), ctx.clone());
            return recompute(&self.parameters(), hidden_states, move |hidden_states| {
                layer.composed(hidden_states, mask, &ctx)
            });
        }
        self.composed(hidden_states, mask, ctx)
    }

    /// The result of the layer in inference, and the keys and the values of all tokens, each
    /// `(batch, tokens, features)`, from which decoding continues.
    pub fn forward_with_keys(&self, hidden_states: &Tensor, mask: AttentionMask) -> Result<[Tensor; 3]> {
        match self.as_operation_with_keys(hidden_states, mask)? {
            Some(results) => Ok(results),
            None => self.composed_with_keys(hidden_states, mask, &ForwardContext::inference()),
        }
    }

    /// Converts hidden states of any shape to the type in which the layer computes best: bf16 if its weights
    /// are bf16 and the GPU has kernels for it, whose sums are f32; otherwise they are unchanged. Convert them
    /// before the first layer, and convert the result back after the last.
    pub fn as_activations(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        as_activations(self.query.as_ref(), self.query.out_features() / self.heads.max(1), hidden_states, ctx)
    }

    /// The layer composed of this crate's operations.
    fn composed(&self, hidden_states: &Tensor, mask: AttentionMask, ctx: &ForwardContext) -> Result<Tensor> {
        let [ys, _, _] = self.composed_with_keys(hidden_states, mask, ctx)?;
        Ok(ys)
    }

    fn composed_with_keys(
        &self,
        hidden_states: &Tensor,
        mask: AttentionMask,
        ctx: &ForwardContext,
    ) -> Result<[Tensor; 3]> {
        let normed = match self.norm_first {
            true => self.attention_norm.forward(hidden_states, ctx)?,
            false => hidden_states.clone(),
        };
        let first = mask.first_query();
        let from_first = |tensor: &Tensor| match first {
            0 => Ok(tensor.clone()),
            _ => tensor.narrow(1, first, tensor.dim(1)?.saturating_sub(first))?.contiguous(),
        };
        let (key, value) = (self.key.forward(&normed, ctx)?, self.value.forward(&normed, ctx)?);
        let query = self.query.forward(&from_first(&normed)?, ctx)?;
        let context = attention(&query, &key, &value, self.heads, mask, &self.attention_dropout, ctx)?;
        let ys = self.after_attention(&context, &from_first(hidden_states)?, ctx)?;
        Ok([ys, key, value])
    }

    /// The part of the layer after attention, for a caller that computes attention itself, as in decoding.
    /// `context` is the result of attention, `(batch, tokens, heads * head_dim)`, and `hidden_states` the input
    /// of the layer, `(batch, tokens, features)`, which is also the shape of the result.
    pub fn after_attention(
        &self,
        context: &Tensor,
        hidden_states: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let attended = self.attention_output.forward(context, ctx)?;
        let feed_forward = |xs: &Tensor| {
            let inner = self.activation.after(self.intermediate.as_ref(), xs, ctx)?;
            self.output.forward(&inner, ctx)
        };
        if self.norm_first {
            let dropped = self.attention_output_dropout.forward(&attended, ctx)?;
            let attended = (hidden_states + dropped)?;
            let ys = feed_forward(&self.output_norm.forward(&attended, ctx)?)?;
            return Ok((attended + self.output_dropout.forward(&ys, ctx)?)?);
        }
        let dropout = &self.attention_output_dropout;
        let normed = self.attention_norm.forward_sum(hidden_states, &attended, dropout, ctx)?;
        let ys = feed_forward(&normed)?;
        self.output_norm.forward_sum(&normed, &ys, &self.output_dropout, ctx)
    }

    /// The layer with each linear layer replaced by the result of `f`, such as its [`snapshot`](crate::snapshot()).
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn map_linear(
        &self,
        f: impl Fn(&Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>>,
    ) -> Result<Self> {
        Ok(Self {
            query: f(&self.query)?,
            key: f(&self.key)?,
            value: f(&self.value)?,
            attention_output: f(&self.attention_output)?,
            intermediate: f(&self.intermediate)?,
            output: f(&self.output)?,
            ..self.clone()
        })
    }

    fn linear_layers(&self) -> [&Arc<dyn LinearLayer>; 6] {
        [&self.query, &self.key, &self.value, &self.attention_output, &self.intermediate, &self.output]
    }

    fn norms(&self) -> [&LayerNorm; 2] {
        [&self.attention_norm, &self.output_norm]
    }

    /// The trainable parameters of the layer.
    pub fn parameters(&self) -> Vec<Tensor> {
        let linear = self.linear_layers().into_iter().flat_map(|layer| layer.parameters());
        linear.chain(self.norms().into_iter().flat_map(LayerNorm::parameters)).collect()
    }

    /// Whether the layer can run as one operation on rows of host memory: the sizes fit, and no norm is trained.
    fn fits_rows(&self, hidden_states: &Tensor, first_query: usize, ctx: &ForwardContext) -> bool {
        let (Ok((_, tokens, width)), true) = (hidden_states.dims3(), host::is_host_f32(hidden_states)) else {
            return false;
        };
        let inner = self.intermediate.out_features();
        let features = self.linear_layers().map(|layer| (layer.in_features(), layer.out_features()));
        let square = (width, width);
        features == [square, square, square, square, (width, inner), (inner, width)]
            && self.heads > 0
            && width > 0
            && width.is_multiple_of(self.heads)
            && first_query < tokens
            && self.norms().into_iter().all(|norm| norm.features() == width)
            && !(ctx.is_training() && self.norms().into_iter().any(|norm| !norm.parameters().is_empty()))
    }
}
