//! Layer normalisation on rows of host memory, in parallel.

use cpu_kernels::{DropoutMask, Isa, RowStatistics, normalise, normalise_gradient};
use rayon::prelude::*;

use crate::{LayerNorm, host};

impl LayerNorm {
    /// Normalises rows of host memory. Returns their statistics for the backward pass.
    pub(crate) fn forward_rows(&self, xs: &[f32], ys: &mut [f32]) -> candle_core::Result<Statistics> {
        let (weight, bias) = (self.weight.storage_and_layout(), self.bias.storage_and_layout());
        Ok(normalise_rows(self.isa, xs, host::values(&weight)?, host::values(&bias)?, self.eps, ys))
    }

    /// Adds the gradient of the rows `xs` to `dxs`; see [`LayerNormOp`].
    pub(crate) fn add_backward_rows(
        &self,
        xs: &[f32],
        statistics: &Statistics,
        dys: &[f32],
        dxs: &mut [f32],
    ) -> candle_core::Result<()> {
        let weight = self.weight.storage_and_layout();
        let weight = host::values(&weight)?;
        let size = ROWS * weight.len();
        (dxs.par_chunks_mut(size), xs.par_chunks(size), dys.par_chunks(size), statistics.par_chunks(ROWS))
            .into_par_iter()
            .for_each_init(
                || vec![0.0; size],
                |gradient, (dxs, xs, dys, statistics)| {
                    let gradient = &mut gradient[..xs.len()];
                    normalise_gradient(self.isa, xs, weight, dys, statistics, gradient);
                    dxs.iter_mut().zip(gradient).for_each(|(dx, gradient)| *dx += *gradient);
                },
            );
        Ok(())
    }

    /// Replaces `sums` by `residual + mask ∘ sums` and normalises the result: the end of a block in BERT.
    pub(crate) fn forward_residual_rows(
        &self,
        sums: &mut [f32],
        residual: &[f32],
        mask: Option<&DropoutMask>,
        ys: &mut [f32],
    ) -> candle_core::Result<Statistics> {
        let (weight, bias) = (self.weight.storage_and_layout(), self.bias.storage_and_layout());
        let (weight, bias) = (host::values(&weight)?, host::values(&bias)?);
        let (features, size) = (weight.len(), ROWS * weight.len());
        let mut statistics = vec![[0.0; 2]; sums.len() / features];
        (
            (ys.par_chunks_mut(size), statistics.par_chunks_mut(ROWS)),
            (sums.par_chunks_mut(size), residual.par_chunks(size)),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(task, ((ys, statistics), (sums, residual)))| {
                add_masked(sums, residual, mask, task * ROWS, features);
                normalise(self.isa, sums, weight, bias, self.eps, ys, statistics);
            });
        Ok(statistics)
    }

    /// The backward pass of [`forward_residual_rows`](Self::forward_residual_rows): `dsums`, the gradient of
    /// the sums, which is also that of the residual, and `dxs`, the gradient of the values before the mask.
    pub(crate) fn backward_residual_rows(
        &self,
        sums: &[f32],
        statistics: &Statistics,
        mask: Option<&DropoutMask>,
        dys: &[f32],
        (dsums, dxs): (&mut [f32], &mut [f32]),
    ) -> candle_core::Result<()> {
        let weight = self.weight.storage_and_layout();
        let weight = host::values(&weight)?;
        let (features, size) = (weight.len(), ROWS * weight.len());
        (
            (dsums.par_chunks_mut(size), dxs.par_chunks_mut(size)),
            (sums.par_chunks(size), dys.par_chunks(size), statistics.par_chunks(ROWS)),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(task, ((dsums, dxs), (sums, dys, statistics)))| {
                normalise_gradient(self.isa, sums, weight, dys, statistics, dsums);
                dxs.copy_from_slice(dsums);
                apply_mask(dxs, mask, task * ROWS, features);
            });
        Ok(())
    }
}

/// Mean and `1 / sqrt(var + eps)` of each row.
pub(crate) type Statistics = Vec<RowStatistics>;

/// Multiplies rows of `features` by their mask; the first of them is row number `first`.
pub(crate) fn apply_mask(rows: &mut [f32], mask: Option<&DropoutMask>, first: usize, features: usize) {
    let Some(mask) = mask else { return };
    for (index, row) in rows.chunks_exact_mut(features).enumerate() {
        mask.apply_part(first + index, 0, row);
    }
}

/// `sums = residual + mask ∘ sums`.
pub(crate) fn add_masked(
    sums: &mut [f32],
    residual: &[f32],
    mask: Option<&DropoutMask>,
    first: usize,
    features: usize,
) {
    apply_mask(sums, mask, first, features);
    sums.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual);
}

/// Normalises rows in parallel.
pub(super) fn normalise_rows(
    isa: Isa,
    xs: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    ys: &mut [f32],
) -> Statistics {
    let size = ROWS * weight.len();
    let mut statistics = vec![[0.0; 2]; xs.len() / weight.len()];
    (ys.par_chunks_mut(size), xs.par_chunks(size), statistics.par_chunks_mut(ROWS))
        .into_par_iter()
        .for_each(|(ys, xs, statistics)| normalise(isa, xs, weight, bias, eps, ys, statistics));
    statistics
}

/// Rows of a task.
pub(crate) const ROWS: usize = 16;
