//! The backward pass of a transformer layer.

use candle_core::Result;
use cpu_kernels::{Buffer, DropoutMask, Init, Rows, leading_dimension};
use rayon::prelude::*;

use super::rows::{LayerRows, Saved, SavedAttention, SavedMlp};
use crate::layer_norm::{ROWS, Statistics, apply_mask};
use crate::linear::{LoraGradients, RowLinear};

/// A linear layer, its input, `h` of its adapter, and the gradient of its output.
type Backward<'a> = (&'a RowLinear, Rows<'a>, Option<&'a Buffer>, Rows<'a>);

impl LayerRows {
    /// Computes, from the gradient of `ys`, that of `xs` (to `dxs`, if it is wanted) and those of the adapters'
    /// `A` and `B`, layer by layer. Saved activations are freed as soon as they are used.
    ///
    /// `dresidual` is the gradient of the residual and accumulates its parts; `dbranch` is that of a branch's output.
    pub(super) fn backward(
        &self,
        xs: &[f32],
        saved: Saved,
        dys: &[f32],
        dxs: Option<&mut [f32]>,
    ) -> Result<Vec<Vec<f32>>> {
        let Saved { attention, probabilities, attended, mlp } = saved;
        let (mut dresidual, mut dbranch) = (Buffer::new(dys.len()), Buffer::new(dys.len()));
        let mlp_gradients = self.backward_mlp(mlp, &attended.0, dys, &mut dresidual, &mut dbranch)?;

        let mask = self.attention_mask.as_ref();
        if self.norm_first {
            apply_mask_to_copy(&dresidual, mask, self.width(), &mut dbranch);
        } else {
            let (sums, statistics) = &attended;
            let mut dsums = Buffer::new(dys.len());
            let to = (&mut *dsums, &mut *dbranch);
            self.attention_norm.backward_residual_rows(sums, statistics, mask, &dresidual, to)?;
            dresidual = dsums;
        }
        drop(attended);
        let attention_gradients =
            self.backward_attention(xs, attention, probabilities, dbranch, dresidual, dxs)?;
        let all = attention_gradients.into_iter().chain(mlp_gradients);
        Ok(all.flatten().flatten().collect())
    }

    /// The backward pass of the MLP: the gradients of its adapters, and that of its residual, to `dresidual`.
    /// `dbranch` is scratch memory.
    pub(super) fn backward_mlp(
        &self,
        saved: SavedMlp,
        attended: &[f32],
        dys: &[f32],
        dresidual: &mut [f32],
        dbranch: &mut [f32],
    ) -> Result<[Option<LoraGradients>; 2]> {
        let mask = self.output_mask.as_ref();
        match &saved.sums {
            Some((sums, statistics)) => {
                let to = (&mut *dresidual, &mut *dbranch);
                self.output_norm.backward_residual_rows(sums, statistics, mask, dys, to)?;
            }
            None => {
                dresidual.copy_from_slice(dys);
                apply_mask_to_copy(dys, mask, self.width(), dbranch);
            }
        }
        drop(saved.sums);
        let [hidden_inner, hidden_output] = saved.hidden;
        let (width, inner_width) = (self.width(), self.intermediate.out_features());
        let mut dactivated = Buffer::new(saved.inner.len());
        // Only the gradient of the output layer's adapter needs the result of the activation.
        let mut dinner = match hidden_output {
            Some(_) => self.activated(&saved.inner),
            None => Buffer::new(saved.inner.len() / inner_width * leading_dimension(inner_width)),
        };
        let rows = Rows::padded(&dinner, inner_width);
        let wanted = Some((&mut *dactivated, Init::Zero));
        let output = self.output.backward(rows, hidden_output.as_ref(), Rows::new(dbranch, width), wanted)?;
        // The gradient of the activation's input overwrites its result.
        dinner
            .par_chunks_mut(leading_dimension(inner_width))
            .zip(saved.inner.par_chunks(inner_width).zip(dactivated.par_chunks(inner_width)))
            .with_min_len(ROWS)
            .for_each(|(dinner, (inner, dactivated))| {
                self.activation.gradient(self.isa, inner, dactivated, &mut dinner[..inner_width]);
            });
        drop((saved.inner, dactivated));
        let dinner = Rows::padded(&dinner, inner_width);
        let input = Rows::new(&saved.input, width);
        let intermediate = if self.norm_first {
            let wanted = Some((&mut *dbranch, Init::Zero));
            let gradients = self.intermediate.backward(input, hidden_inner.as_ref(), dinner, wanted)?;
            self.output_norm.add_backward_rows(attended, &saved.input_statistics, dbranch, dresidual)?;
            gradients
        } else {
            let wanted = Some((&mut *dresidual, Init::Accumulate));
            self.intermediate.backward(input, hidden_inner.as_ref(), dinner, wanted)?
        };
        Ok([intermediate, output])
    }

    /// Attention, from the gradient of its output and that of the rows of `x` that are its residual: the gradients of query, key,
    /// value and output layer, and that of `xs`, to `dxs` if it is wanted.
    pub(super) fn backward_attention(
        &self,
        xs: &[f32],
        saved: SavedAttention,
        probabilities: Buffer,
        dbranch: Buffer,
        dresidual: Buffer,
        dxs: Option<&mut [f32]>,
    ) -> Result<[Option<LoraGradients>; 4]> {
        let SavedAttention { normed, query_rows, queries, keys, values, context, hidden } = saved;
        let [hidden_query, hidden_key, hidden_value, hidden_output] = hidden;
        let (len, width) = (dbranch.len(), self.width());
        let mut dcontext = Buffer::new(len);
        let wanted = Some((&mut *dcontext, Init::Zero));
        let output = {
            let (context, dbranch) = (Rows::new(&context, width), Rows::new(&dbranch, width));
            self.attention_output.backward(context, hidden_output.as_ref(), dbranch, wanted)?
        };
        drop((dbranch, context));
        let (mut dqueries, mut dkeys) = (Buffer::new(len), Buffer::new(xs.len()));
        let mut dvalues = Buffer::new(xs.len());
        self.attention.backward(
            [&queries, &keys, &values],
            &probabilities,
            &dcontext,
            [&mut dqueries, &mut dkeys, &mut dvalues],
        );
        drop((dcontext, queries, keys, values, probabilities));

        let rows = |values| Rows::new(values, width);
        let input = normed.as_ref().map_or(xs, |(normed, _)| normed);
        let query_rows = query_rows.as_deref().unwrap_or(input);
        let linear = [
            (&self.key, rows(input), hidden_key.as_ref(), rows(&dkeys)),
            (&self.value, rows(input), hidden_value.as_ref(), rows(&dvalues)),
            (&self.query, rows(query_rows), hidden_query.as_ref(), rows(&dqueries)),
        ];
        let [key, value, query] = match dxs {
            None => {
                let run =
                    |(layer, input, hidden, grad): Backward<'_>| layer.backward(input, hidden, grad, None);
                [run(linear[0])?, run(linear[1])?, run(linear[2])?]
            }
            Some(dxs) => self.backward_input(xs, &normed, linear, dresidual, dxs)?,
        };
        Ok([query, key, value, output])
    }

    /// Writes the gradient of the layer's input to `dxs`, from the gradients of keys, values, queries and the
    /// residual.
    fn backward_input(
        &self,
        xs: &[f32],
        normed: &Option<(Buffer, Statistics)>,
        [key, value, query]: [Backward<'_>; 3],
        mut dresidual: Buffer,
        dxs: &mut [f32],
    ) -> Result<[Option<LoraGradients>; 3]> {
        let run = |(layer, input, hidden, grad): Backward<'_>, to: &mut [f32], init| {
            layer.backward(input, hidden, grad, Some((to, init)))
        };
        if let Some((_, statistics)) = normed {
            let mut dnormed = Buffer::new(dxs.len());
            let key = run(key, &mut dnormed, Init::Zero)?;
            let value = run(value, &mut dnormed, Init::Accumulate)?;
            let mut dquery_rows = Buffer::new(dresidual.len());
            let query = run(query, &mut dquery_rows, Init::Zero)?;
            self.scatter_add(&dquery_rows, &mut dnormed);
            dxs.fill(0.0);
            self.scatter_add(&dresidual, dxs);
            self.attention_norm.add_backward_rows(xs, statistics, &dnormed, dxs)?;
            return Ok([key, value, query]);
        }
        // The query rows are the residual's rows: both gradients are summed in one buffer.
        let (query, others) = rayon::join(
            || run(query, &mut dresidual, Init::Accumulate),
            || {
                let key = run(key, dxs, Init::Zero)?;
                Result::Ok((key, run(value, dxs, Init::Accumulate)?))
            },
        );
        let (query, (key, value)) = (query?, others?);
        self.scatter_add(&dresidual, dxs);
        Ok([key, value, query])
    }

    /// Adds each query row to its row among all rows.
    fn scatter_add(&self, query_rows: &[f32], all: &mut [f32]) {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        all.par_chunks_exact_mut(size + skipped).zip(query_rows.par_chunks_exact(size)).for_each(
            |(all, rows)| {
                all[skipped..].iter_mut().zip(rows).for_each(|(all, row)| *all += row);
            },
        );
    }
}

/// `to = mask ∘ from` for rows of `features`.
fn apply_mask_to_copy(from: &[f32], mask: Option<&DropoutMask>, features: usize, to: &mut [f32]) {
    let size = ROWS * features;
    to.par_chunks_mut(size).zip(from.par_chunks(size)).enumerate().for_each(|(task, (to, from))| {
        to.copy_from_slice(from);
        apply_mask(to, mask, task * ROWS, features);
    });
}
