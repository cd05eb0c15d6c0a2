//! A transformer layer on rows of host memory, with the state that its two passes share.

use cpu_kernels::{Buffer, DropoutMask, Isa};

use super::TransformerLayer;
use crate::attention::{AttentionRows, sizes::Sizes};
use crate::layer_norm::Statistics;
use crate::linear::RowLinear;
use crate::{Activation, AdaptedLinear, AttentionMask, ForwardContext, KeyLengths, LayerNorm, Result, host};

/// A layer in one pass over one batch.
pub(super) struct LayerRows {
    pub(super) isa: Isa,
    pub(super) sizes: Sizes,
    pub(super) first_query: usize,
    pub(super) norm_first: bool,
    pub(super) query: RowLinear,
    pub(super) key: RowLinear,
    pub(super) value: RowLinear,
    pub(super) attention: AttentionRows,
    pub(super) attention_output: RowLinear,
    pub(super) attention_norm: LayerNorm,
    /// Dropout on the output of attention.
    pub(super) attention_mask: Option<DropoutMask>,
    pub(super) intermediate: RowLinear,
    pub(super) activation: Activation,
    pub(super) output: RowLinear,
    pub(super) output_norm: LayerNorm,
    /// Dropout on the output of the MLP.
    pub(super) output_mask: Option<DropoutMask>,
}

/// Activations that the forward pass saves for the backward pass. If a norm comes first, its result is saved;
/// if it comes after a sum, that sum is saved.
pub(super) struct Saved {
    pub(super) attention: SavedAttention,
    pub(super) probabilities: Buffer,
    /// `x + attention`, and its statistics if its norm comes next.
    pub(super) attended: (Buffer, Statistics),
    pub(super) mlp: SavedMlp,
}

pub(super) struct SavedAttention {
    /// The input of attention: the normed input of the layer. None if that is the input itself.
    pub(super) normed: Option<(Buffer, Statistics)>,
    /// Its rows that are used as queries, if not all.
    pub(super) query_rows: Option<Buffer>,
    pub(super) queries: Buffer,
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    pub(super) context: Buffer,
    /// `h` of the adapters of query, key, value and output.
    pub(super) hidden: [Option<Buffer>; 4],
}

pub(super) struct SavedMlp {
    /// The input of the MLP.
    pub(super) input: Buffer,
    /// Statistics of its norm, if that comes before the MLP.
    pub(super) input_statistics: Statistics,
    /// The input of the activation, whose result is computed again.
    pub(super) inner: Buffer,
    /// `r + MLP`, if its norm comes next.
    pub(super) sums: Option<(Buffer, Statistics)>,
    /// `h` of the adapters of the intermediate and the output layer.
    pub(super) hidden: [Option<Buffer>; 2],
}

impl LayerRows {
    /// From a layer whose sizes fit; `None` if a linear layer is not in host memory.
    pub(super) fn new(
        layer: &TransformerLayer,
        adapted: &[AdaptedLinear],
        dims: &[usize],
        (mask, lengths): (AttentionMask, Option<&KeyLengths>),
        ctx: &ForwardContext,
    ) -> Result<Option<Self>> {
        let (&[batch, tokens, width], first_query) = (dims, mask.first_query()) else { return Ok(None) };
        let queries = tokens - first_query;
        let (all, query_rows) = ([batch, tokens, width], [batch, queries, width]);
        let inner = [batch, queries, layer.intermediate.out_features()];
        let dims = [query_rows, all, all, query_rows, query_rows, inner];
        let linear = adapted.iter().zip(dims).map(|(layer, dims)| layer.on_rows(&dims, ctx));
        let Some(linear) = linear.collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
        let Ok([query, key, value, attention_output, intermediate, output]) =
            <[RowLinear; 6]>::try_from(linear)
        else {
            return Ok(None);
        };
        let sizes = Sizes { batch, queries, keys: tokens, heads: layer.heads, head_dim: width / layer.heads };
        Ok(Some(Self {
            isa: host::isa()?,
            sizes,
            first_query,
            norm_first: layer.norm_first,
            query,
            key,
            value,
            attention: AttentionRows::new(sizes, mask, lengths, &layer.attention_dropout, ctx)?,
            attention_output,
            attention_norm: layer.attention_norm.clone(),
            attention_mask: layer.attention_output_dropout.mask(&query_rows, ctx)?,
            intermediate,
            activation: layer.activation,
            output,
            output_norm: layer.output_norm.clone(),
            output_mask: layer.output_dropout.mask(&query_rows, ctx)?,
        }))
    }

    /// Shape of the result.
    pub(super) fn output_dims(&self) -> (usize, usize, usize) {
        (self.sizes.batch, self.sizes.queries, self.width())
    }

    pub(super) fn width(&self) -> usize {
        self.query.in_features()
    }

    /// The rows of `xs` that are used as queries, if not all.
    pub(super) fn gather_queries(&self, xs: &[f32]) -> Option<Buffer> {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        (skipped > 0).then(|| {
            let mut gathered = Buffer::new(self.sizes.batch * size);
            for (to, xs) in gathered.chunks_exact_mut(size).zip(xs.chunks_exact(size + skipped)) {
                to.copy_from_slice(&xs[skipped..]);
            }
            gathered
        })
    }
}
