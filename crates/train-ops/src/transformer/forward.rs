//! The forward pass of a transformer layer.

use rayon::prelude::*;

use super::rows::{Kept, LayerRows};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Rows, apart};
use crate::layer_norm::{ROWS, add_masked};

impl LayerRows {
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
        let residual = gathered.as_deref().or(asking.as_deref()).unwrap_or(xs);
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

    /// `sums = residual + mask ∘ sums`.
    fn add(&self, sums: &mut [f32], residual: &[f32], mask: Option<&Mask>) {
        let size = ROWS * self.width();
        sums.par_chunks_mut(size)
            .zip(residual.par_chunks(size))
            .enumerate()
            .for_each(|(task, (sums, residual))| add_masked(sums, residual, mask, task * ROWS, self.width()));
    }
}
