//! The kernels' results in f64, as plainly as they can be written. The checks of the kernels compare with these; `reference_gradients.rs`
//! compares their gradients with differences of their results, so that no formula for a gradient is trusted.

// Each program uses others of them.
#![allow(dead_code)]

pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod lora;
pub(crate) mod residual_norm;

/// `values` as f64.
pub(crate) fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// `a (rows, k) bᵀ` for `b (columns, k)`.
pub(crate) fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(k).flat_map(|x| b.chunks(k).map(move |y| dot(x, y))).collect()
}

/// The transpose of `(rows, columns)`.
pub(crate) fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// `a ∘ b`: the products of their elements.
pub(crate) fn times(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// `a + b`, element by element.
pub(crate) fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
