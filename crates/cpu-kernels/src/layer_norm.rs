//! Layer normalisation and root mean square normalisation of rows, forward and backward.

use crate::dispatch::for_each_isa;

/// Mean and `1 / sqrt(var + eps)` of a row.
pub type RowStatistics = [f32; 2];

for_each_isa! {
    /// `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` for each row of `weight.len()` values, with the
    /// variance without Bessel's correction. Writes the statistics of each row, which [`normalise_gradient`]
    /// needs.
    pub fn normalise(
        isa: Isa,
        xs: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        ys: &mut [f32],
        statistics: &mut [RowStatistics],
    ) {
        let n = weight.len();
        for ((x, y), statistics) in xs.chunks_exact(n).zip(ys.chunks_exact_mut(n)).zip(statistics) {
            let mean = sum_of(x, |x| x) / n as f32;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / n as f32;
            let rstd = 1.0 / (variance + eps).sqrt();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * rstd * w + b;
            }
            *statistics = [mean, rstd];
        }
    }

    /// With `x̂` the normalised input, `g = dy * weight` and means over the row: `dx = (g - mean(g) - x̂ mean(g x̂)) / std`.
    pub fn normalise_gradient(
        isa: Isa,
        xs: &[f32],
        weight: &[f32],
        dys: &[f32],
        statistics: &[RowStatistics],
        dxs: &mut [f32],
    ) {
        let n = weight.len();
        for (((x, dy), dx), [mean, rstd]) in
            xs.chunks_exact(n).zip(dys.chunks_exact(n)).zip(dxs.chunks_exact_mut(n)).zip(statistics)
        {
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * w;
            }
            let mean_g = sum_of(dx, |g| g) / n as f32;
            let mean_gx = sum_of2(dx, x, |g, x| g * (x - mean) * rstd) / n as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - mean_g - (x - mean) * rstd * mean_gx) * rstd;
            }
        }
    }

    /// `y = x / sqrt(mean(x²) + eps) * weight` for each row of `weight.len()` values. Writes
    /// `1 / sqrt(mean(x²) + eps)` of each row, which [`rms_normalise_gradient`] needs.
    pub fn rms_normalise(
        isa: Isa,
        xs: &[f32],
        weight: &[f32],
        eps: f32,
        ys: &mut [f32],
        inverse_rms: &mut [f32],
    ) {
        let n = weight.len();
        for ((x, y), inverse_rms) in xs.chunks_exact(n).zip(ys.chunks_exact_mut(n)).zip(inverse_rms) {
            *inverse_rms = 1.0 / (sum_of(x, |x| x * x) / n as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * *inverse_rms * w;
            }
        }
    }

    /// With `x̂` the normalised input and `g = dy * weight`: `dx = (g - x̂ mean(g x̂)) / rms`.
    pub fn rms_normalise_gradient(
        isa: Isa,
        xs: &[f32],
        weight: &[f32],
        dys: &[f32],
        inverse_rms: &[f32],
        dxs: &mut [f32],
    ) {
        let n = weight.len();
        for (((x, dy), dx), inverse_rms) in
            xs.chunks_exact(n).zip(dys.chunks_exact(n)).zip(dxs.chunks_exact_mut(n)).zip(inverse_rms)
        {
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * w;
            }
            let mean_gx = sum_of2(dx, x, |g, x| g * x * inverse_rms) / n as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - x * inverse_rms * mean_gx) * inverse_rms;
            }
        }
    }
}

/// `Σ f(x)` in 16 lanes, which compilers vectorise and which rounds less than a running sum.
#[inline(always)]
fn sum_of(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_of2(xs, xs, |x, _| f(x))
}

/// `Σ f(x, y)` in 16 lanes.
#[inline(always)]
fn sum_of2(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (xs, xs_rest) = xs.as_chunks::<16>();
    let (ys, ys_rest) = ys.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for (xs, ys) in xs.iter().zip(ys) {
        for lane in 0..16 {
            lanes[lane] += f(xs[lane], ys[lane]);
        }
    }
    let rest: f32 = xs_rest.iter().zip(ys_rest).map(|(&x, &y)| f(x, y)).sum();
    lanes.iter().sum::<f32>() + rest
}
