//! Log-probabilities of logits, with the same bits on every instruction set.

use multiversion::multiversion;

/// `log softmax`, in place.
pub(crate) fn log_softmax(logits: &mut [f32]) {
    let log_sum = log_sum_exp(logits);
    logits.iter_mut().for_each(|logit| *logit -= log_sum);
}

/// `log Σ exp(logits)`, which turns logits into log-probabilities when it is subtracted from them.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(crate) fn log_sum_exp(logits: &[f32]) -> f32 {
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

/// `eˣ` within two units in the last place, saturated outside ±87. It has no branches and no fused multiply-add, so that
/// compilers vectorise it and every instruction set gives the same bits.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial for `eʳ` (coefficients of the Cephes library), and `n` added to
/// the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    let x = x.clamp(-87.3, 88.3);
    let t = x * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let [first, rest @ ..] = POLYNOMIAL;
    let p = rest.into_iter().fold(first, |p, coefficient| p * r + coefficient);
    let e = p * r * r + r + 1.0;
    e * f32::from_bits((t.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for x in (-80_000..=80_000).map(|i| i as f32 * 1e-3) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
        }
    }

    #[test]
    fn log_softmax_agrees_with_f64_and_keeps_forbidden_tokens_forbidden() {
        let logits: Vec<f32> =
            (0..37).map(|i| (i * i % 23) as f32 - 9.5).chain([f32::NEG_INFINITY]).collect();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let mut log_probabilities = logits.clone();
        log_softmax(&mut log_probabilities);
        for (logit, got) in logits.iter().zip(&log_probabilities) {
            let expected = f64::from(*logit) - sum.ln();
            assert!(
                f64::from(*got) == expected || (f64::from(*got) - expected).abs() < 2e-6,
                "{got}, {expected}"
            );
        }
    }
}
