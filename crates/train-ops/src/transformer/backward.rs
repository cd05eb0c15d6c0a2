//! The backward pass of a transformer layer.

use rayon::prelude::*;

use super::rows::{Kept, LayerRows};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Rows, Start, apart};
use crate::layer_norm::{ROWS, Statistics, apply_mask};
use crate::linear::{LoraGradients, RowLinear};

/// A linear layer, what it read, `h` of its adapter, and the gradient of what it made.
type Backward<'a> = (&'a RowLinear, Rows<'a>, Option<&'a Buffer>, Rows<'a>);

impl LayerRows {
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
            let mut dasking = Buffer::new(dresidual.len());
            let of_query = run(query, &mut dasking, Start::Zero)?;
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

    /// Adds the rows that ask to their places among all.
    fn scatter_add(&self, asking: &[f32], all: &mut [f32]) {
        let (size, skipped) = (self.sizes.queries * self.width(), self.first_query * self.width());
        all.par_chunks_exact_mut(size + skipped).zip(asking.par_chunks_exact(size)).for_each(
            |(all, asking)| {
                all[skipped..].iter_mut().zip(asking).for_each(|(all, asking)| *all += asking);
            },
        );
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
