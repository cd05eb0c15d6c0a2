//! GELU, its approximations and SiLU, elementwise, with their gradients.

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

    /// `y = x σ(x)` (Elfwing, Uchibe and Doya, 2017), also called swish.
    pub fn silu(isa: Isa, xs: &[f32], ys: &mut [f32]) {
        for (y, &x) in ys.iter_mut().zip(xs) {
            *y = x * sigmoid(x);
        }
    }

    /// `dx = dy (s + x s (1 - s))` with `s = σ(x)`.
    pub fn silu_gradient(isa: Isa, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
            let s = sigmoid(x);
            *dx = dy * (s + x * s * (1.0 - s));
        }
    }

    /// `y = x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, the approximation of GELU in GPT-2 and Gemma.
    pub fn gelu_tanh(isa: Isa, xs: &[f32], ys: &mut [f32]) {
        for (y, &x) in ys.iter_mut().zip(xs) {
            // (1 + tanh(u)) / 2 = σ(2 u)
            *y = x * sigmoid(TANH_SCALE * (x + TANH_CUBE * x * x * x));
        }
    }

    /// `dx = dy (s + x s (1 - s) 2 √(2/π) (1 + 3 · 0.044715 x²))` with `s = σ(2 √(2/π) (x + 0.044715 x³))`.
    pub fn gelu_tanh_gradient(isa: Isa, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
            let s = sigmoid(TANH_SCALE * (x + TANH_CUBE * x * x * x));
            *dx = dy * (s + x * s * (1.0 - s) * TANH_SCALE * (1.0 + 3.0 * TANH_CUBE * x * x));
        }
    }
}

/// `2 √(2/π)`.
const TANH_SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
const TANH_CUBE: f32 = 0.044715;
