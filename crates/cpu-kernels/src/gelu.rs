//! GELU and its sigmoid approximation, elementwise, with their gradients.

use crate::dispatch::for_each_isa;
use crate::math::{normal, sigmoid};

for_each_isa! {
    /// `y = x Φ(x)` with the exact normal distribution Φ (Hendrycks and Gimpel, 2016), within 3e-7.
    pub fn gelu(isa: Isa, xs: &[f32], ys: &mut [f32]) {
        for (y, &x) in ys.iter_mut().zip(xs) {
            *y = x * normal(x).0;
        }
    }

    /// `dx = dy (Φ(x) + x φ(x))`.
    pub fn gelu_gradient(isa: Isa, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
            let (cdf, density) = normal(x);
            *dx = dy * (cdf + x * density);
        }
    }

    /// `y = x σ(1.702 x)`, as CLIP uses it.
    pub fn quick_gelu(isa: Isa, xs: &[f32], ys: &mut [f32]) {
        for (y, &x) in ys.iter_mut().zip(xs) {
            *y = x * sigmoid(1.702 * x);
        }
    }

    /// `dx = dy (s + 1.702 x s (1 - s))` with `s = σ(1.702 x)`.
    pub fn quick_gelu_gradient(isa: Isa, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
            let s = sigmoid(1.702 * x);
            *dx = dy * (s + 1.702 * x * s * (1.0 - s));
        }
    }
}
