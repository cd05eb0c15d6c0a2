/// Rows of logits, of which a target may be `none`.
pub(crate) struct CrossEntropy<'a> {
    pub(crate) targets: &'a [u32],
    /// The target of a row without one.
    pub(crate) none: u32,
    /// Logits of a row that are of the vocabulary; others may follow.
    pub(crate) vocabulary: usize,
    /// From one row to the next.
    pub(crate) stride: usize,
    pub(crate) bias: Option<&'a [f64]>,
    pub(crate) smoothing: f64,
}

impl CrossEntropy<'_> {
    /// The loss of each row.
    pub(crate) fn losses(&self, logits: &[f64]) -> Vec<f64> {
        let loss = |(row, target): (&[f64], &u32)| {
            if *target == self.none {
                return 0.0;
            }
            let row = self.with_bias(row);
            let mean = row.iter().sum::<f64>() / self.vocabulary as f64;
            log_sum(&row) - (1.0 - self.smoothing) * row[*target as usize] - self.smoothing * mean
        };
        logits.chunks(self.stride).zip(self.targets).map(loss).collect()
    }

    /// The gradients of the logits for the sum of all losses.
    pub(crate) fn gradients(&self, logits: &[f64]) -> Vec<f64> {
        let row = |(row, target): (&[f64], &u32)| {
            let mut gradient = vec![0.0; self.stride];
            if *target == self.none {
                return gradient;
            }
            let row = self.with_bias(row);
            let log_sum = log_sum(&row);
            for (i, (gradient, z)) in gradient.iter_mut().zip(&row).enumerate() {
                let on_target = if i == *target as usize { 1.0 - self.smoothing } else { 0.0 };
                *gradient = (z - log_sum).exp() - on_target - self.smoothing / self.vocabulary as f64;
            }
            gradient
        };
        logits.chunks(self.stride).zip(self.targets).flat_map(row).collect()
    }

    fn with_bias(&self, row: &[f64]) -> Vec<f64> {
        let bias = |i: usize| self.bias.map_or(0.0, |bias| bias[i]);
        (0..self.vocabulary).map(|i| row[i] + bias(i)).collect()
    }
}

fn log_sum(row: &[f64]) -> f64 {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + row.iter().map(|z| (z - largest).exp()).sum::<f64>().ln()
}
