//! The forward and the backward pass of a transformer layer, on rows of host memory.

use rayon::prelude::*;

use super::TransformerLayer;
use crate::attention::{AttentionRows, Sizes};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Rows, Start, apart};
use crate::layer_norm::{ROWS, Statistics, add_masked, apply_mask};
use crate::linear::{LoraGradients, RowLinear};
use crate::{Activation, AdaptedLinear, AttentionMask, LayerNorm, Pass, Result};

/// A layer in one pass over one batch.
pub(super) struct LayerRows {
    sizes: Sizes,
    first_query: usize,
    norm_first: bool,
    query: RowLinear,
    key: RowLinear,
    value: RowLinear,
    attention: AttentionRows,
    attention_output: RowLinear,
    attention_norm: LayerNorm,
    /// On what attention adds to the residual.
    attended_mask: Option<Mask>,
    intermediate: RowLinear,
    activation: Activation,
    output: RowLinear,
    output_norm: LayerNorm,
    /// On what the perceptron adds to the residual.
    output_mask: Option<Mask>,
}

/// What the forward pass leaves for the backward pass. A norm that comes first leaves its result, one that comes after a sum
/// leaves that sum.
pub(super) struct Kept {
    /// What attention read: the normed input. None where that is the input itself.
    normed: Option<(Buffer, Statistics)>,
    /// The rows of it that asked, where that is not all.
    asking: Option<Buffer>,
    queries: Buffer,
    keys: Buffer,
    values: Buffer,
    probabilities: Buffer,
    context: Buffer,
    /// `x + attention`, whose norm comes later; with its statistics where it comes next.
    attended: (Buffer, Statistics),
    /// What the perceptron read.
    read: Buffer,
    /// Statistics of a norm that comes before the perceptron.
    read_statistics: Statistics,
    inner: Buffer,
    activated: Buffer,
    /// `r + perceptron`, where its norm comes next.
    sums: Option<(Buffer, Statistics)>,
    /// `h` of each adapter, in the order of the linear layers.
    hidden: [Option<Buffer>; 6],
}

impl Kept {
    /// Keys and values of all tokens.
    pub(super) fn keys_and_values(&self) -> [&[f32]; 2] {
        [&self.keys, &self.values]
    }
}

/// A linear layer, what it read, `h` of its adapter, and the gradient of what it made.
type Backward<'a> = (&'a RowLinear, Rows<'a>, Option<&'a Buffer>, Rows<'a>);

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

    fn width(&self) -> usize {
        self.query.in_features()
    }

    /// Computes `ys` from `xs`, and returns what the backward pass needs if it is to be kept.
    pub(super) fn forward(
        &self,
        xs: &[f32],
        ys: &mut [f32],
        keep: bool,
    ) -> candle_core::Result<Option<Kept>> {
        let (all, some) = (xs.len(), ys.len());
        let normed = match self.norm_first {
            true => {
                let mut normed = Buffer::new(all);
                let statistics = self.attention_norm.forward_rows(xs, &mut normed)?;
                Some((normed, statistics))
            }
            false => None,
        };
        let input = normed.as_ref().map_or(xs, |(normed, _)| normed);
        let (width, input_rows) = (self.width(), Rows::new(input, self.width()));
        let operand = self.key.operand(input_rows);
        let (mut keys, mut values, mut queries) = (Buffer::new(all), Buffer::new(all), Buffer::new(some));
        let asking = self.gather(input);
        // Side by side, so that no thread waits for the last task of each.
        let (hidden_query, (hidden_key, hidden_value)) = rayon::join(
            || match &asking {
                None => self.query.forward(input_rows, &operand, &mut queries),
                Some(asking) => {
                    let asking = Rows::new(asking, width);
                    self.query.forward(asking, &self.query.operand(asking), &mut queries)
                }
            },
            || {
                rayon::join(
                    || self.key.forward(input_rows, &operand, &mut keys),
                    || self.value.forward(input_rows, &operand, &mut values),
                )
            },
        );
        let (hidden_query, hidden_key, hidden_value) = (hidden_query?, hidden_key?, hidden_value?);
        drop(operand);

        let mut context = Buffer::new(some);
        let probabilities = self.attention.forward([&queries, &keys, &values], &mut context, keep);
        let mut attended = Buffer::new(some);
        let found = Rows::new(&context, width);
        let operand = self.attention_output.operand(found);
        let hidden_attended = self.attention_output.forward(found, &operand, &mut attended)?;
        drop(operand);

        let gathered = if self.norm_first { self.gather(xs) } else { None };
        let residual =
            gathered.as_deref().or(asking.as_deref()).filter(|_| self.first_query > 0).unwrap_or(xs);
        let (mut read, mask) = (Buffer::new(some), self.attended_mask.as_ref());
        let (attended_statistics, read_statistics) = if self.norm_first {
            self.add(&mut attended, residual, mask);
            (Vec::new(), self.output_norm.forward_rows(&attended, &mut read)?)
        } else {
            let norm = &self.attention_norm;
            (norm.forward_residual_rows(&mut attended, residual, mask, &mut read)?, Vec::new())
        };

        let (count, inner_width) = (some / width, self.intermediate.out_features());
        let mut inner = Buffer::new(count * inner_width);
        let read_rows = Rows::new(&read, width);
        let hidden_inner =
            self.intermediate.forward(read_rows, &self.intermediate.operand(read_rows), &mut inner)?;
        let mut activated = Buffer::new(count * apart(inner_width));
        activated
            .par_chunks_mut(apart(inner_width))
            .zip(inner.par_chunks(inner_width))
            .with_min_len(ROWS)
            .for_each(|(activated, inner)| self.activation.apply(inner, &mut activated[..inner_width]));
        let activated_rows = Rows::apart(&activated, inner_width);
        let operand = self.output.operand(activated_rows);
        let mask = self.output_mask.as_ref();
        let (hidden_output, sums) = if self.norm_first {
            let hidden = self.output.forward(activated_rows, &operand, ys)?;
            self.add(ys, &attended, mask);
            (hidden, None)
        } else {
            let mut sums = Buffer::new(some);
            let hidden = self.output.forward(activated_rows, &operand, &mut sums)?;
            let statistics = self.output_norm.forward_residual_rows(&mut sums, &read, mask, ys)?;
            (hidden, Some((sums, statistics)))
        };
        drop(operand);

        Ok(probabilities.map(|probabilities| Kept {
            normed,
            asking,
            queries,
            keys,
            values,
            probabilities,
            context,
            attended: (attended, attended_statistics),
            read,
            read_statistics,
            inner,
            activated,
            sums,
            hidden: [hidden_query, hidden_key, hidden_value, hidden_attended, hidden_inner, hidden_output],
        }))
    }

    /// From the gradient of `ys`: that of `xs`, to `dxs` if there is a place for it, and those of the adapters' `A` and `B`,
    /// layer by layer. What was kept is let go as soon as it was used.
    pub(super) fn backward(
        &self,
        xs: &[f32],
        kept: Kept,
        dys: &[f32],
        dxs: Option<&mut [f32]>,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let some = dys.len();
        let [hidden_query, hidden_key, hidden_value, hidden_attended, hidden_inner, hidden_output] =
            kept.hidden;

        // The perceptron: `dresidual` is the gradient of `r`, and grows as parts of it become known.
        let (mut dresidual, mut dbranch) = (Buffer::new(some), Buffer::new(some));
        let mask = self.output_mask.as_ref();
        match &kept.sums {
            Some((sums, statistics)) => {
                let to = (&mut *dresidual, &mut *dbranch);
                self.output_norm.backward_residual_rows(sums, statistics, mask, dys, to)?;
            }
            None => self.split(dys, mask, &mut dresidual, &mut dbranch),
        }
        drop(kept.sums);
        let (width, inner_width) = (self.width(), self.intermediate.out_features());
        let mut dactivated = Buffer::new(kept.inner.len());
        let place = Some((&mut *dactivated, Start::Zero));
        let activated = Rows::apart(&kept.activated, inner_width);
        let dbranch_rows = Rows::new(&dbranch, width);
        let of_output = self.output.backward(activated, hidden_output.as_ref(), dbranch_rows, place)?;
        // The gradient of what the activation read takes the place of its result.
        let mut dinner = kept.activated;
        dinner
            .par_chunks_mut(apart(inner_width))
            .zip(kept.inner.par_chunks(inner_width).zip(dactivated.par_chunks(inner_width)))
            .with_min_len(ROWS)
            .for_each(|(dinner, (inner, dactivated))| {
                self.activation.gradient(inner, dactivated, &mut dinner[..inner_width]);
            });
        drop((kept.inner, dactivated));
        let dinner_rows = Rows::apart(&dinner, inner_width);
        let read = Rows::new(&kept.read, width);
        let of_inner = if self.norm_first {
            let place = Some((&mut *dbranch, Start::Zero));
            let of_inner = self.intermediate.backward(read, hidden_inner.as_ref(), dinner_rows, place)?;
            let attended = &kept.attended.0;
            self.output_norm.add_backward_rows(attended, &kept.read_statistics, &dbranch, &mut dresidual)?;
            of_inner
        } else {
            let place = Some((&mut *dresidual, Start::Kept));
            self.intermediate.backward(read, hidden_inner.as_ref(), dinner_rows, place)?
        };
        drop((dinner, kept.read));

        // Attention: from here on `dresidual` is the gradient of the rows of `x` that asked.
        let mask = self.attended_mask.as_ref();
        if self.norm_first {
            apply_mask_to_copy(&dresidual, mask, width, &mut dbranch);
        } else {
            let (sums, statistics) = &kept.attended;
            let mut dsums = Buffer::new(some);
            let to = (&mut *dsums, &mut *dbranch);
            self.attention_norm.backward_residual_rows(sums, statistics, mask, &dresidual, to)?;
            dresidual = dsums;
        }
        drop(kept.attended);
        let mut dcontext = Buffer::new(some);
        let place = Some((&mut *dcontext, Start::Zero));
        let of_attended = {
            let (context, dbranch) = (Rows::new(&kept.context, width), Rows::new(&dbranch, width));
            self.attention_output.backward(context, hidden_attended.as_ref(), dbranch, place)?
        };
        drop((dbranch, kept.context));
        let (mut dqueries, mut dkeys) = (Buffer::new(some), Buffer::new(xs.len()));
        let mut dvalues = Buffer::new(xs.len());
        self.attention.backward(
            [&kept.queries, &kept.keys, &kept.values],
            &kept.probabilities,
            &dcontext,
            [&mut dqueries, &mut dkeys, &mut dvalues],
        );
        drop((dcontext, kept.queries, kept.keys, kept.values, kept.probabilities));

        // What queries, keys and values were made of.
        let input = kept.normed.as_ref().map_or(xs, |(normed, _)| normed);
        let asking = kept.asking.as_deref().unwrap_or(input);
        let rows = |values| Rows::new(values, width);
        let linear = [
            (&self.key, rows(input), hidden_key.as_ref(), rows(&dkeys)),
            (&self.value, rows(input), hidden_value.as_ref(), rows(&dvalues)),
            (&self.query, rows(asking), hidden_query.as_ref(), rows(&dqueries)),
        ];
        let [of_key, of_value, of_query] = match dxs {
            None => {
                let run =
                    |(layer, input, hidden, grad): Backward<'_>| layer.backward(input, hidden, grad, None);
                [run(linear[0])?, run(linear[1])?, run(linear[2])?]
            }
            Some(dxs) => self.backward_input(xs, &kept.normed, linear, dresidual, dxs)?,
        };
        let all = [of_query, of_key, of_value, of_attended, of_inner, of_output];
        Ok(all.into_iter().flatten().flatten().collect())
    }

    /// The gradient of the layer's input to `dxs`, from those of keys, values and queries, and from that of the residual.
    fn backward_input(
        &self,
        xs: &[f32],
        normed: &Option<(Buffer, Statistics)>,
        [key, value, query]: [Backward<'_>; 3],
        mut dresidual: Buffer,
        dxs: &mut [f32],
    ) -> candle_core::Result<[Option<LoraGradients>; 3]> {
        let run = |(layer, input, hidden, grad): Backward<'_>, to: &mut [f32], start| {
            layer.backward(input, hidden, grad, Some((to, start)))
        };
        if let Some((_, statistics)) = normed {
            let mut dnormed = Buffer::new(dxs.len());
            let of_key = run(key, &mut dnormed, Start::Zero)?;
            let of_value = run(value, &mut dnormed, Start::Kept)?;
            let mut dasking = Buffer::zeros(dresidual.len());
            let of_query = run(query, &mut dasking, Start::Kept)?;
            self.scatter_add(&dasking, &mut dnormed);
            dxs.fill(0.0);
            self.scatter_add(&dresidual, dxs);
            self.attention_norm.add_backward_rows(xs, statistics, &dnormed, dxs)?;
            return Ok([of_key, of_value, of_query]);
        }
        // The rows that asked are the residual's: both gradients are summed in one place.
        let (of_query, of_others) = rayon::join(
            || run(query, &mut dresidual, Start::Kept),
            || Ok::<_, candle_core::Error>((run(key, dxs, Start::Zero)?, run(value, dxs, Start::Kept)?)),
        );
        let (of_query, (of_key, of_value)) = (of_query?, of_others?);
        self.scatter_add(&dresidual, dxs);
        Ok([of_key, of_value, of_query])
    }

    /// The rows of `xs` that ask, where these are not all.
    fn gather(&self, xs: &[f32]) -> Option<Buffer> {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        (skipped > 0).then(|| {
            let mut asking = Buffer::new(self.sizes.batch * size);
            for (asking, xs) in asking.chunks_exact_mut(size).zip(xs.chunks_exact(size + skipped)) {
                asking.copy_from_slice(&xs[skipped..]);
            }
            asking
        })
    }

    /// Adds the rows that ask to their places among all.
    fn scatter_add(&self, asking: &[f32], all: &mut [f32]) {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        all.par_chunks_exact_mut(size + skipped).zip(asking.par_chunks_exact(size)).for_each(
            |(all, asking)| {
                all[skipped..].iter_mut().zip(asking).for_each(|(all, asking)| *all += asking);
            },
        );
    }

    /// `sums = residual + mask ∘ sums`.
    fn add(&self, sums: &mut [f32], residual: &[f32], mask: Option<&Mask>) {
        let size = ROWS * self.width();
        sums.par_chunks_mut(size)
            .zip(residual.par_chunks(size))
            .enumerate()
            .for_each(|(task, (sums, residual))| add_masked(sums, residual, mask, task * ROWS, self.width()));
    }

    /// The gradients of `residual + mask ∘ branch`.
    fn split(&self, dys: &[f32], mask: Option<&Mask>, dresidual: &mut [f32], dbranch: &mut [f32]) {
        dresidual.copy_from_slice(dys);
        apply_mask_to_copy(dys, mask, self.width(), dbranch);
    }
}

/// `to = mask ∘ from` for rows of `features`.
fn apply_mask_to_copy(from: &[f32], mask: Option<&Mask>, features: usize, to: &mut [f32]) {
    let size = ROWS * features;
    to.par_chunks_mut(size).zip(from.par_chunks(size)).enumerate().for_each(|(task, (to, from))| {
        to.copy_from_slice(from);
        apply_mask(to, mask, task * ROWS, features);
    });
}
