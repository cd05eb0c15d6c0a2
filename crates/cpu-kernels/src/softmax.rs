//! Softmax of rows, its gradient, and the logarithm of its denominator.

use crate::dispatch::for_each_isa;
use crate::math::exp;

/// Values that [`softmax`] works on at a time. It is fastest on rows whose length is a multiple of this.
pub const LANES: usize = 16;

for_each_isa! {
    /// Softmax of the first `visible` values of `row`, in place; the others become 0.
    pub fn softmax(isa: Isa, row: &mut [f32], visible: usize) {
        // If the row is long enough, whole vectors are used; the last one is padded with minus infinity, which
        // has no effect.
        let used = visible.next_multiple_of(LANES).min(row.len());
        row[visible..used].fill(f32::NEG_INFINITY);
        let values = &mut row[..used];
        // Not `f32::max`, which also compares for NaN; a NaN among the scores makes the row NaN below.
        let larger = |max: f32, x: f32| if x > max { x } else { max };
        let max = halve(lanes(values, values, f32::NEG_INFINITY, |max, x, _| larger(max, x)), larger);
        for value in values.iter_mut() {
            *value = exp(*value - max);
        }
        let scale = 1.0 / halve(lanes(values, values, 0.0, |sum, x, _| sum + x), |sum, x| sum + x);
        row[visible..].fill(0.0);
        for value in &mut row[..used] {
            *value *= scale;
        }
    }

    /// The gradient of attention's scores, in place of that of its probabilities after dropout, `dprobabilities`:
    /// `scale * (P' dP' - P Σ P' dP')` for the first `visible` values, with `P` the probabilities and `P'` the same after
    /// dropout (`dropped`). The other values become 0.
    pub fn softmax_gradient(
        isa: Isa,
        probabilities: &[f32],
        dropped: &[f32],
        dprobabilities: &mut [f32],
        visible: usize,
        scale: f32,
    ) {
        dprobabilities[visible..].fill(0.0);
        let used = visible.next_multiple_of(LANES).min(probabilities.len());
        let (probabilities, dropped) = (&probabilities[..used], &dropped[..used]);
        let dprobabilities = &mut dprobabilities[..used];
        let mean = halve(lanes(dropped, dprobabilities, 0.0, |sum, p, dp| sum + p * dp), |sum, x| sum + x);
        for (dp, (p, dropped)) in dprobabilities.iter_mut().zip(probabilities.iter().zip(dropped)) {
            *dp = (dropped * *dp - p * mean) * scale;
        }
    }

    /// `log Σ exp(logits)`. Logits minus this number are log-probabilities.
    pub fn log_sum_exp(isa: Isa, logits: &[f32]) -> f32 {
        let (blocks, rest) = logits.as_chunks::<16>();
        let mut max = [f32::NEG_INFINITY; 16];
        for block in blocks {
            for lane in 0..16 {
                max[lane] = max[lane].max(block[lane]);
            }
        }
        let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = [0.0f32; 16];
        for block in blocks {
            for lane in 0..16 {
                sum[lane] += exp(block[lane] - max);
            }
        }
        let rest: f32 = rest.iter().map(|logit| exp(logit - max)).sum();
        max + (sum.iter().sum::<f32>() + rest).ln()
    }

    /// `exp(logits - log_sum_exp) - uniform`, in place: probabilities, less a share for label smoothing.
    pub fn probabilities(isa: Isa, logits: &mut [f32], log_sum_exp: f32, uniform: f32) {
        for logit in logits {
            *logit = exp(*logit - log_sum_exp) - uniform;
        }
    }
}

/// Folds pairs of values in lanes, which compilers vectorise.
#[inline(always)]
fn lanes(xs: &[f32], ys: &[f32], first: f32, fold: impl Fn(f32, f32, f32) -> f32) -> [f32; LANES] {
    let (xs, xs_rest) = xs.as_chunks::<LANES>();
    let (ys, ys_rest) = ys.as_chunks::<LANES>();
    let mut lanes = [first; LANES];
    for (xs, ys) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            lanes[lane] = fold(lanes[lane], xs[lane], ys[lane]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(xs_rest.iter().zip(ys_rest)) {
        *lane = fold(*lane, *x, *y);
    }
    lanes
}

/// Folds lanes into one, half of them at a time.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = fold(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
