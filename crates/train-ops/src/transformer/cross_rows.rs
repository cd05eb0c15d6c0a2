//! Cross-attention on rows of host memory, forward and backward.

use candle_core::Result;
use cpu_kernels::{Buffer, DropoutMask, Init, Rows};

use super::CrossAttention;
use crate::attention::{AttentionRows, sizes::Sizes};
use crate::layer_norm::Statistics;
use crate::linear::{LoraGradients, RowLinear};
use crate::{AdaptedLinear, AttentionMask, ForwardContext, KeyLengths, LayerNorm};

/// Cross-attention in one pass over one batch.
pub(super) struct CrossRows {
    query: RowLinear,
    key: RowLinear,
    value: RowLinear,
    attention: AttentionRows,
    output: RowLinear,
    /// Dropout on the output of attention.
    mask: Option<DropoutMask>,
    norm: LayerNorm,
}

/// Activations that the forward pass saves for the backward pass.
pub(super) struct SavedCross {
    input: Buffer,
    queries: Buffer,
    keys: Buffer,
    values: Buffer,
    /// `None` if no backward pass follows.
    probabilities: Option<Buffer>,
    context: Buffer,
    /// The input plus the output of attention, and its statistics.
    sums: (Buffer, Statistics),
    /// `h` of the adapters of query, key, value and output.
    hidden: [Option<Buffer>; 4],
}

impl CrossRows {
    /// From a block whose sizes fit, with its four linear layers; `None` if one of them is not in host memory.
    pub(super) fn new(
        block: &CrossAttention,
        adapted: &[AdaptedLinear],
        sizes: Sizes,
        lengths: Option<&KeyLengths>,
        ctx: &ForwardContext,
    ) -> crate::Result<Option<Self>> {
        let text = [sizes.batch, sizes.queries, block.query.in_features()];
        let states = [sizes.batch, sizes.keys, block.key.in_features()];
        let dims = [text, states, states, text];
        let linear = adapted.iter().zip(dims).map(|(layer, dims)| layer.on_rows(&dims, ctx));
        let Some(linear) = linear.collect::<crate::Result<Option<Vec<_>>>>()? else { return Ok(None) };
        let Ok([query, key, value, output]) = <[RowLinear; 4]>::try_from(linear) else { return Ok(None) };
        Ok(Some(Self {
            query,
            key,
            value,
            attention: AttentionRows::new(sizes, AttentionMask::Full, lengths, &block.dropout, ctx)?,
            output,
            mask: block.output_dropout.mask(&text, ctx)?,
            norm: block.norm.clone(),
        }))
    }

    /// Returns the saved activations and the block's result. The probabilities are saved only if `keep`, for a
    /// backward pass.
    pub(super) fn forward(&self, input: Buffer, states: &[f32], keep: bool) -> Result<(SavedCross, Buffer)> {
        let (len, width) = (input.len(), self.query.in_features());
        let (rows, state_rows) = (Rows::new(&input, width), Rows::new(states, self.key.in_features()));
        let converted = self.key.input(state_rows);
        let [mut keys, mut values] = [(); 2].map(|()| Buffer::new(state_rows.count() * width));
        let mut queries = Buffer::new(len);
        // In parallel, so that threads do not wait for the last task of each.
        let (hidden_query, (hidden_key, hidden_value)) = rayon::join(
            || self.query.forward(rows, &self.query.input(rows), &mut queries),
            || {
                rayon::join(
                    || self.key.forward(state_rows, &converted, &mut keys),
                    || self.value.forward(state_rows, &converted, &mut values),
                )
            },
        );
        drop(converted);

        let mut context = Buffer::new(len);
        let probabilities = self.attention.forward([&queries, &keys, &values], &mut context, keep);
        let mut sums = Buffer::new(len);
        let hidden_output = {
            let rows = Rows::new(&context, width);
            self.output.forward(rows, &self.output.input(rows), &mut sums)?
        };
        let mut crossed = Buffer::new(len);
        let mask = self.mask.as_ref();
        let statistics = self.norm.forward_residual_rows(&mut sums, &input, mask, &mut crossed)?;
        let hidden = [hidden_query?, hidden_key?, hidden_value?, hidden_output];
        let sums = (sums, statistics);
        let saved = SavedCross { input, queries, keys, values, probabilities, context, sums, hidden };
        Ok((saved, crossed))
    }

    /// Computes, from the gradient of the result, that of the input (to `dxs`), that of the states (to
    /// `dstates`, if it is wanted), and those of the adapters of query, key, value and output. Saved
    /// activations are freed as soon as they are used.
    pub(super) fn backward(
        &self,
        states: &[f32],
        saved: SavedCross,
        dys: &[f32],
        dxs: &mut [f32],
        dstates: Option<&mut [f32]>,
    ) -> Result<[Option<LoraGradients>; 4]> {
        let SavedCross { input, queries, keys, values, probabilities, context, sums, hidden } = saved;
        let [hidden_query, hidden_key, hidden_value, hidden_output] = hidden;
        let Some(probabilities) = probabilities else {
            candle_core::bail!("cross-attention: no activations were saved")
        };
        let (len, width) = (dys.len(), self.query.in_features());
        let mut dbranch = Buffer::new(len);
        {
            let (sums, statistics) = sums;
            let to = (&mut *dxs, &mut *dbranch);
            self.norm.backward_residual_rows(&sums, &statistics, self.mask.as_ref(), dys, to)?;
        }
        let mut dcontext = Buffer::new(len);
        let wanted = Some((&mut *dcontext, Init::Zero));
        let output = {
            let (context, dbranch) = (Rows::new(&context, width), Rows::new(&dbranch, width));
            self.output.backward(context, hidden_output.as_ref(), dbranch, wanted)?
        };
        drop((dbranch, context));
        let mut dqueries = Buffer::new(len);
        let [mut dkeys, mut dvalues] = [(); 2].map(|()| Buffer::new(keys.len()));
        self.attention.backward(
            [&queries, &keys, &values],
            &probabilities,
            &dcontext,
            [&mut dqueries, &mut dkeys, &mut dvalues],
        );
        drop((dcontext, queries, keys, values, probabilities));

        let wanted = Some((dxs, Init::Accumulate));
        let (input, dqueries) = (Rows::new(&input, width), Rows::new(&dqueries, width));
        let query = self.query.backward(input, hidden_query.as_ref(), dqueries, wanted)?;
        let state_rows = Rows::new(states, self.key.in_features());
        let (dkeys, dvalues) = (Rows::new(&dkeys, width), Rows::new(&dvalues, width));
        let (hidden_key, hidden_value) = (hidden_key.as_ref(), hidden_value.as_ref());
        let (key, value) = match dstates {
            None => (
                self.key.backward(state_rows, hidden_key, dkeys, None)?,
                self.value.backward(state_rows, hidden_value, dvalues, None)?,
            ),
            Some(dstates) => {
                let wanted = Some((&mut *dstates, Init::Zero));
                let key = self.key.backward(state_rows, hidden_key, dkeys, wanted)?;
                let wanted = Some((dstates, Init::Accumulate));
                (key, self.value.backward(state_rows, hidden_value, dvalues, wanted)?)
            }
        };
        Ok([query, key, value, output])
    }
}
