//! Log-probabilities of logits, with the same bits on every instruction set.

use cpu_kernels::Isa;

/// `log softmax`, in place.
pub(crate) fn log_softmax(logits: &mut [f32]) {
    let log_sum = log_sum_exp(logits);
    logits.iter_mut().for_each(|logit| *logit -= log_sum);
}

/// `log Σ exp(logits)`. Logits minus this number are log-probabilities.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f32 {
    // The model's own kernels report an instruction set that the processor does not have; here all sets give
    // the same bits.
    cpu_kernels::log_sum_exp(Isa::active().unwrap_or_else(|_| Isa::portable()), logits)
}

#[cfg(test)]
mod tests {
    use super::*;

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
