use super::times;

/// A row's mean and `1 / sqrt(variance + eps)`.
fn statistics(sums: &[f64], eps: f64) -> [f64; 2] {
    let n = sums.len() as f64;
    let mean = sums.iter().sum::<f64>() / n;
    let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    [mean, 1.0 / (variance + eps).sqrt()]
}

/// `norm(sums) ∘ w + b` of rows as long as `w`.
pub(crate) fn norm(sums: &[f64], [w, b]: [&[f64]; 2], eps: f64) -> Vec<f64> {
    let row = |sums: &[f64]| -> Vec<f64> {
        let [mean, rstd] = statistics(sums, eps);
        (0..w.len()).map(|i| (sums[i] - mean) * rstd * w[i] + b[i]).collect()
    };
    sums.chunks(w.len()).flat_map(row).collect()
}

/// The gradient of `sums` for the gradient `dys` of [`norm`].
pub(crate) fn norm_gradient(sums: &[f64], w: &[f64], eps: f64, dys: &[f64]) -> Vec<f64> {
    let row = |(sums, dys): (&[f64], &[f64])| -> Vec<f64> {
        let n = sums.len() as f64;
        let [mean, rstd] = statistics(sums, eps);
        let normed: Vec<f64> = sums.iter().map(|x| (x - mean) * rstd).collect();
        let g = times(dys, w);
        let mean_g = g.iter().sum::<f64>() / n;
        let mean_gn = times(&g, &normed).iter().sum::<f64>() / n;
        (0..sums.len()).map(|i| (g[i] - mean_g - normed[i] * mean_gn) * rstd).collect()
    };
    sums.chunks(w.len()).zip(dys.chunks(w.len())).flat_map(row).collect()
}
