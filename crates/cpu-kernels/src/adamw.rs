//! AdamW's update of a parameter, and sums of gradients, elementwise.

use crate::dispatch::for_each_isa;

/// The scalars of AdamW's update of one parameter: with decay rates `β`, learning rate `η`, weight decay `λ`, in step `t` from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWScalars {
    /// `β₁` and `β₂`.
    pub betas: [f32; 2],
    /// `1 - β₁` and `1 - β₂`.
    pub rests: [f32; 2],
    /// `ε`.
    pub epsilon: f32,
    /// `1 - η λ`.
    pub decay: f32,
    /// `η / (1 - β₁ᵗ)`.
    pub step_size: f32,
    /// `√(1 - β₂ᵗ)`.
    pub root_correction: f32,
}

/// A parameter and its moments. They and the gradient have one length; elements beyond the shortest of them are left as they are.
#[derive(Debug)]
pub struct AdamWState<'a> {
    /// The parameter `θ`.
    pub parameter: &'a mut [f32],
    /// The mean of the gradients, `m`.
    pub exp_avg: &'a mut [f32],
    /// The mean of their squares, `v`.
    pub exp_avg_sq: &'a mut [f32],
}

for_each_isa! {
    /// AdamW's update (Loshchilov and Hutter, 2019) for the gradient `g`:
    ///
    /// ```text
    /// m ← β₁ m + (1 - β₁) g
    /// v ← β₂ v + (1 - β₂) g²
    /// θ ← decay θ - step_size m / (√v / root_correction + ε)
    /// ```
    pub fn adamw(isa: Isa, scalars: &AdamWScalars, state: AdamWState<'_>, gradient: &[f32]) {
        update(scalars, state, gradient, |g| g);
    }

    /// [`adamw`] for the gradient that is multiplied by both factors, one after the other. As in an affine map with offset 0, -0
    /// becomes 0.
    pub fn scaled_adamw(isa: Isa, scalars: &AdamWScalars, state: AdamWState<'_>, gradient: &[f32], factors: [f32; 2]) {
        update(scalars, state, gradient, |g| (g * factors[0] + 0.0) * factors[1] + 0.0);
    }

    /// `sum += values`, for slices of one length; elements beyond the shorter one are left as they are.
    pub fn add(isa: Isa, sum: &mut [f32], values: &[f32]) {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

#[inline(always)]
fn update(s: &AdamWScalars, state: AdamWState<'_>, gradient: &[f32], prepare: impl Fn(f32) -> f32) {
    let moments = state.exp_avg.iter_mut().zip(state.exp_avg_sq);
    for ((p, (m, v)), &g) in state.parameter.iter_mut().zip(moments).zip(gradient) {
        let g = prepare(g);
        *m = s.betas[0] * *m + s.rests[0] * g;
        *v = s.betas[1] * *v + s.rests[1] * g * g;
        *p = s.decay * *p - s.step_size * *m / (v.sqrt() / s.root_correction + s.epsilon);
    }
}
