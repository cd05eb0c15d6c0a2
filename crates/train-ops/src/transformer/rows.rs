//! A transformer layer on rows of host memory, and what its two passes share.

use super::TransformerLayer;
use crate::attention::{AttentionRows, Sizes};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::layer_norm::Statistics;
use crate::linear::RowLinear;
use crate::{Activation, AdaptedLinear, AttentionMask, LayerNorm, Pass, Result};

/// A layer in one pass over one batch.
pub(super) struct LayerRows {
    pub(super) sizes: Sizes,
    pub(super) first_query: usize,
    pub(super) norm_first: bool,
    pub(super) query: RowLinear,
    pub(super) key: RowLinear,
    pub(super) value: RowLinear,
    pub(super) attention: AttentionRows,
    pub(super) attention_output: RowLinear,
    pub(super) attention_norm: LayerNorm,
    /// On what attention adds to the residual.
    pub(super) attended_mask: Option<Mask>,
    pub(super) intermediate: RowLinear,
    pub(super) activation: Activation,
    pub(super) output: RowLinear,
    pub(super) output_norm: LayerNorm,
    /// On what the perceptron adds to the residual.
    pub(super) output_mask: Option<Mask>,
}

/// What the forward pass leaves for the backward pass. A norm that comes first leaves its result, one that comes after a sum
/// leaves that sum.
pub(super) struct Kept {
    /// What attention read: the normed input. None where that is the input itself.
    pub(super) normed: Option<(Buffer, Statistics)>,
    /// The rows of it that asked, where that is not all.
    pub(super) asking: Option<Buffer>,
    pub(super) queries: Buffer,
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    pub(super) probabilities: Buffer,
    pub(super) context: Buffer,
    /// `x + attention`, whose norm comes later; with its statistics where it comes next.
    pub(super) attended: (Buffer, Statistics),
    /// What the perceptron read.
    pub(super) read: Buffer,
    /// Statistics of a norm that comes before the perceptron.
    pub(super) read_statistics: Statistics,
    pub(super) inner: Buffer,
    pub(super) activated: Buffer,
    /// `r + perceptron`, where its norm comes next.
    pub(super) sums: Option<(Buffer, Statistics)>,
    /// `h` of each adapter, in the order of the linear layers.
    pub(super) hidden: [Option<Buffer>; 6],
}

impl Kept {
    /// Keys and values of all tokens.
    pub(super) fn keys_and_values(&self) -> [&[f32]; 2] {
        [&self.keys, &self.values]
    }
}

impl LayerRows {
    /// Of a layer whose sizes fit; `None` if a linear layer is not in host memory.
    pub(super) fn new(
        layer: &TransformerLayer,
        adapted: &[AdaptedLinear],
        dims: &[usize],
        mask: AttentionMask,
        pass: &Pass,
    ) -> Result<Option<Self>> {
        let (&[batch, tokens, width], first_query) = (dims, mask.first_query()) else { return Ok(None) };
        let queries = tokens - first_query;
        let (all, asking) = ([batch, tokens, width], [batch, queries, width]);
        let inner = [batch, queries, layer.intermediate.out_features()];
        let dims = [asking, all, all, asking, asking, inner];
        let linear = adapted.iter().zip(dims).map(|(layer, dims)| layer.on_rows(&dims, pass));
        let Some(linear) = linear.collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
        let Ok([query, key, value, attention_output, intermediate, output]) =
            <[RowLinear; 6]>::try_from(linear)
        else {
            return Ok(None);
        };
        let sizes = Sizes { batch, queries, keys: tokens, heads: layer.heads, head_dim: width / layer.heads };
        Ok(Some(Self {
            sizes,
            first_query,
            norm_first: layer.norm_first,
            query,
            key,
            value,
            attention: AttentionRows::new(sizes, mask, &layer.attention_dropout, pass)?,
            attention_output,
            attention_norm: layer.attention_norm.clone(),
            attended_mask: layer.attention_output_dropout.mask(&asking, pass)?,
            intermediate,
            activation: layer.activation,
            output,
            output_norm: layer.output_norm.clone(),
            output_mask: layer.output_dropout.mask(&asking, pass)?,
        }))
    }

    /// Shape of the result.
    pub(super) fn output_dims(&self) -> (usize, usize, usize) {
        (self.sizes.batch, self.sizes.queries, self.width())
    }

    pub(super) fn width(&self) -> usize {
        self.query.in_features()
    }

    /// The rows of `xs` that ask, where these are not all.
    pub(super) fn gather(&self, xs: &[f32]) -> Option<Buffer> {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        (skipped > 0).then(|| {
            let mut asking = Buffer::new(self.sizes.batch * size);
            for (asking, xs) in asking.chunks_exact_mut(size).zip(xs.chunks_exact(size + skipped)) {
                asking.copy_from_slice(&xs[skipped..]);
            }
            asking
        })
    }
}
