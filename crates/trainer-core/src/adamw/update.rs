use candle_core::{Tensor, Var};
use cpu_kernels::{AdamWScalars, AdamWState, Isa, adamw, scaled_adamw};

use super::Moments;
use crate::Result;
use crate::cuda::Updated;
use crate::slices::{with_slice, with_slice_mut};

/// The scalars of the update of one parameter.
pub(super) struct Update {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
    pub(super) decay: f64,
    pub(super) step_size: f64,
    pub(super) root_correction: f64,
}

impl Update {
    /// The arguments of the kernel, which multiplies the gradient by `scale`.
    pub(super) fn on_device<'a>(
        &self,
        parameter: &'a Var,
        moments: &'a Moments,
        gradient: &'a Tensor,
        scale: f64,
    ) -> Updated<'a> {
        Updated {
            parameter,
            gradient,
            exp_avg: &moments.exp_avg,
            exp_avg_sq: &moments.exp_avg_sq,
            decay: self.decay as f32,
            step_size: self.step_size as f32,
            root_correction: self.root_correction as f32,
            scale: scale as f32,
        }
    }

    /// Updates parameter and moments on the CPU, in one loop, with the gradient multiplied by both `factors` in turn, if there are any.
    pub(super) fn on_cpu(
        &self,
        parameter: &Var,
        moments: &Moments,
        gradient: &Tensor,
        factors: Option<[f32; 2]>,
    ) -> Result<()> {
        let isa = Isa::active()?;
        let scalars = self.scalars();
        Ok(with_slice(gradient, |gradient| {
            with_slice_mut(parameter, |parameter| {
                with_slice_mut(&moments.exp_avg, |exp_avg| {
                    with_slice_mut(&moments.exp_avg_sq, |exp_avg_sq| {
                        let state = AdamWState { parameter, exp_avg, exp_avg_sq };
                        match factors {
                            None => adamw(isa, &scalars, state, gradient),
                            Some(factors) => scaled_adamw(isa, &scalars, state, gradient, factors),
                        }
                        Ok(())
                    })
                })
            })
        })??)
    }

    fn scalars(&self) -> AdamWScalars {
        AdamWScalars {
            betas: [self.beta1 as f32, self.beta2 as f32],
            rests: [(1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32],
            epsilon: self.epsilon as f32,
            decay: self.decay as f32,
            step_size: self.step_size as f32,
            root_correction: self.root_correction as f32,
        }
    }

    /// The same with candle's operations, for devices other than the CPU.
    pub(super) fn by_operations(
        &self,
        parameter: &Var,
        moments: &mut Moments,
        gradient: &Tensor,
    ) -> candle_core::Result<()> {
        moments.exp_avg = ((&moments.exp_avg * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        moments.exp_avg_sq = ((&moments.exp_avg_sq * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((moments.exp_avg_sq.sqrt()? / self.root_correction)? + self.epsilon)?;
        let change = ((&moments.exp_avg * self.step_size)? / denominator)?;
        parameter.set(&((parameter.as_detached_tensor() * self.decay)? - change)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::parameter_group::ParameterSettings;

    #[test]
    fn the_update_on_the_cpu_agrees_with_the_update_by_operations() {
        let values = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap();
        let update = Update {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            decay: 0.98,
            step_size: 0.3,
            root_correction: 0.2,
        };
        let updated = |update: &dyn Fn(&Var, &mut Moments, &Tensor)| {
            let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
            let parameter = Var::from_tensor(&tensor([1.0, -2.0, 0.0])).unwrap();
            let (exp_avg, exp_avg_sq) = (tensor([0.1, -0.2, 0.0]), tensor([0.01, 0.5, 0.0]));
            let settings = ParameterSettings { lr_ratio: 1.0, weight_decay: 0.0, shape: vec![3] };
            let mut moments = Moments { settings, exp_avg, exp_avg_sq, step: 3 };
            update(&parameter, &mut moments, &tensor([0.7, -3.0, 1e-3]));
            [values(&parameter), values(&moments.exp_avg), values(&moments.exp_avg_sq)].concat()
        };
        let on_cpu = updated(&|p, moments, g| update.on_cpu(p, moments, g, None).unwrap());
        let by_operations = updated(&|p, moments, g| update.by_operations(p, moments, g).unwrap());
        for (a, b) in on_cpu.iter().zip(&by_operations) {
            assert!((a - b).abs() <= 1e-6 * a.abs(), "{on_cpu:?} is not {by_operations:?}");
        }
    }
}
