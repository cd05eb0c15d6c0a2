//! A layer of a transformer decoder with cross-attention.

use std::sync::Arc;

use candle_core::Tensor;

use super::TransformerLayer;
use crate::{
    AttentionMask, Dropout, Error, ForwardContext, KeyLengths, LayerNorm, LinearLayer, Result, host,
    padded_attention, recompute,
};

/// Cross-attention with its residual connection and its norm: `norm(x + dropout(dense(attention(x, states))))`, where queries
/// come from `x`, and keys and values from the states of another encoder.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    /// Projects to queries.
    pub query: Arc<dyn LinearLayer>,
    /// Projects states to keys.
    pub key: Arc<dyn LinearLayer>,
    /// Projects states to values.
    pub value: Arc<dyn LinearLayer>,
    /// Dropout on the attention's probabilities.
    pub dropout: Dropout,
    /// Projects the concatenated heads.
    pub output: Arc<dyn LinearLayer>,
    /// Dropout on the output of attention.
    pub output_dropout: Dropout,
    /// The norm of the sum.
    pub norm: LayerNorm,
}

/// A layer of BERT with cross-attention between self-attention and MLP, as in the decoder of an encoder-decoder model:
///
/// ```text
/// r = norm(x + attention(x))      c = norm(r + attention(r, states))      y = norm(c + MLP(c))
/// ```
///
/// A layer whose linear layers are frozen, with adapters or without, and in host memory is one operation of the
/// graph, as a [`TransformerLayer`] is. For states that track no gradient, such as features of a frozen image
/// encoder, no gradient is computed.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    /// Self-attention and MLP, whose norms come after the sums: `norm_first` must be false.
    pub layer: TransformerLayer,
    /// Attention to the states.
    pub cross: CrossAttention,
}

/// The masks of a [`DecoderLayer`]. By default, each sees all tokens and all states.
#[derive(Clone, Debug, Default)]
pub struct DecoderMasks {
    /// Whether a token sees itself and the tokens before it, instead of all tokens.
    pub causal: bool,
    /// Tokens of each sample without padding; `None` if no token sees padding. A causal decoder needs none, as padding comes
    /// last.
    pub text_lengths: Option<KeyLengths>,
    /// States of each sample without padding; `None` if all of them are real.
    pub state_lengths: Option<KeyLengths>,
}

impl DecoderMasks {
    /// Each token sees itself, the tokens before it, and all states.
    pub fn causal() -> Self {
        Self { causal: true, ..Self::default() }
    }

    /// The mask of self-attention.
    pub(super) fn text(&self) -> AttentionMask {
        match self.causal {
            true => AttentionMask::CausalAfterPrefix { prefix: 0, first_query: 0 },
            false => AttentionMask::Full,
        }
    }
}

impl DecoderLayer {
    /// The layer on `text` `(batch, tokens, features)` with the `states` `(batch, states, state_features)`.
    ///
    /// # Errors
    /// If shapes do not fit, or the layer's norms come first.
    pub fn forward(
        &self,
        text: &Tensor,
        states: &Tensor,
        masks: &DecoderMasks,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        if self.layer.norm_first {
            return Err(Error::NormFirst);
        }
        if let Some(result) = self.as_operation(text, states, masks, ctx)? {
            return Ok(result);
        }
        if !self.layer.recompute || !ctx.is_training() {
            return self.composed(text, states, masks, ctx);
        }
        let (layer, masks, ctx, parameters) = (self.clone(), masks.clone(), ctx.clone(), self.parameters());
        if !states.track_op() {
            let states = states.clone();
            return recompute(&parameters, text, move |text| layer.composed(text, &states, &masks, &ctx));
        }
        // A recomputed segment has one input, so text and states are joined in one tensor.
        let shapes = [text.shape().clone(), states.shape().clone()];
        let both = Tensor::cat(&[text.flatten_all()?, states.flatten_all()?], 0)?;
        recompute(&parameters, &both, move |both| {
            let [text, states] = &shapes;
            let [at, count] = [text.elem_count(), states.elem_count()];
            let (text, states) =
                (both.narrow(0, 0, at)?.reshape(text)?, both.narrow(0, at, count)?.reshape(states)?);
            layer.composed(&text, &states, &masks, &ctx)
        })
    }

    /// The layer composed of this crate's operations.
    fn composed(
        &self,
        text: &Tensor,
        states: &Tensor,
        masks: &DecoderMasks,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let own = &self.layer;
        let [query, key, value] = [&own.query, &own.key, &own.value].map(|layer| layer.forward(text, ctx));
        let context = padded_attention(
            [&query?, &key?, &value?],
            own.heads,
            masks.text(),
            masks.text_lengths.as_ref(),
            &own.attention_dropout,
            ctx,
        )?;
        let attended = self.after_self_attention(&context, text, ctx)?;
        let cross = &self.cross;
        let query = cross.query.forward(&attended, ctx)?;
        let (key, value) = (cross.key.forward(states, ctx)?, cross.value.forward(states, ctx)?);
        let context = padded_attention(
            [&query, &key, &value],
            own.heads,
            AttentionMask::Full,
            masks.state_lengths.as_ref(),
            &cross.dropout,
            ctx,
        )?;
        self.after_cross_attention(&context, &attended, ctx)
    }

    /// The input of cross-attention, `(batch, tokens, features)`. `context` is the result of self-attention
    /// over `text`, `(batch, tokens, heads * head_dim)`, and `text` the input of the layer,
    /// `(batch, tokens, features)`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn after_self_attention(
        &self,
        context: &Tensor,
        text: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let own = &self.layer;
        add_and_norm(
            &own.attention_output,
            &own.attention_output_dropout,
            &own.attention_norm,
            context,
            text,
            ctx,
        )
    }

    /// The part of the layer after cross-attention. `context` is the result of cross-attention,
    /// `(batch, tokens, heads * head_dim)`, and `attended` its input, `(batch, tokens, features)`, as
    /// [`after_self_attention`](Self::after_self_attention) returns it.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn after_cross_attention(
        &self,
        context: &Tensor,
        attended: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (own, cross) = (&self.layer, &self.cross);
        let crossed =
            add_and_norm(&cross.output, &cross.output_dropout, &cross.norm, context, attended, ctx)?;
        let inner = own.activation.after(own.intermediate.as_ref(), &crossed, ctx)?;
        add_and_norm(&own.output, &own.output_dropout, &own.output_norm, &inner, &crossed, ctx)
    }

    /// The layer with each linear layer replaced by the result of `f`, such as its [`snapshot`](crate::snapshot()).
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn map_linear(
        &self,
        f: impl Fn(&Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>>,
    ) -> Result<Self> {
        let cross = &self.cross;
        let cross = CrossAttention {
            query: f(&cross.query)?,
            key: f(&cross.key)?,
            value: f(&cross.value)?,
            output: f(&cross.output)?,
            ..cross.clone()
        };
        Ok(Self { layer: self.layer.map_linear(f)?, cross })
    }

    /// The trainable parameters of the layer.
    pub fn parameters(&self) -> Vec<Tensor> {
        let cross = self.cross.linear_layers().into_iter().flat_map(|layer| layer.parameters());
        self.layer.parameters().into_iter().chain(cross).chain(self.cross.norm.parameters()).collect()
    }

    /// Whether the layer can run as one operation on rows of host memory: the sizes fit, and no norm is trained.
    pub(super) fn fits_rows(&self, text: &Tensor, states: &Tensor, ctx: &ForwardContext) -> bool {
        let (Ok((batch, _, width)), Ok((of_states, count, state_width))) = (text.dims3(), states.dims3())
        else {
            return false;
        };
        let cross = &self.cross;
        let features = cross.linear_layers().map(|layer| (layer.in_features(), layer.out_features()));
        let (square, from_states) = ((width, width), (state_width, width));
        self.layer.fits_rows(text, 0, ctx)
            && host::is_host_f32(states)
            && batch == of_states
            && count > 0
            && features == [square, from_states, from_states, square]
            && cross.norm.features() == width
            && (!ctx.is_training() || cross.norm.parameters().is_empty())
    }
}

impl CrossAttention {
    pub(super) fn linear_layers(&self) -> [&Arc<dyn LinearLayer>; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }
}

/// `norm(x + dropout(dense(y)))`, the end of every block.
fn add_and_norm(
    dense: &Arc<dyn LinearLayer>,
    dropout: &Dropout,
    norm: &LayerNorm,
    ys: &Tensor,
    xs: &Tensor,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    let ys = dropout.forward(&dense.forward(ys, ctx)?, ctx)?;
    norm.forward(&(xs + ys)?, ctx)
}
