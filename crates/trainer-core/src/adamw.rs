use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::cuda::{self, Updated};
use crate::optimizer::{require_same_tensors, require_shape};
use crate::parameter_group::ParameterSettings;
use crate::slices::{with_slice, with_slice_mut};
use crate::{Error, Gradients, Optimizer, OptimizerType, Parameters, Result, TrainingArguments};

/// AdamW, Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with the results of
/// `torch.optim.AdamW`.
///
/// For a parameter `θ` with gradient `g`, in its step `t` (from 1) at learning rate `η`:
///
/// ```text
/// θ ← θ (1 - η λ)
/// m ← β₁ m + (1 - β₁) g
/// v ← β₂ v + (1 - β₂) g²
/// θ ← θ - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)
/// ```
///
/// `m` is saved as `NAME.exp_avg`, `v` as `NAME.exp_avg_sq` (torch's names; f32, initially 0), and `t` as
/// `NAME.step`. A parameter without a gradient is unchanged: it does not decay, its moments do not change, and
/// no step is counted for it.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug)]
struct Moments {
    settings: ParameterSettings,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: i64,
}

impl AdamW {
    /// Creates an optimizer for `parameters` with the arguments' betas, epsilon, weight decay and groups.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`] for a group without parameters, or whose parameters all belong to earlier groups.
    pub fn new(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Self> {
        let settings = ParameterSettings::for_each(arguments, parameters)?;
        let moments = parameters.iter().zip(settings).map(|((name, variable), settings)| {
            let zeros = || variable.as_tensor().zeros_like();
            let moments = Moments { settings, exp_avg: zeros()?, exp_avg_sq: zeros()?, step: 0 };
            Ok((name.to_owned(), moments))
        });
        Ok(Self {
            beta1: arguments.adam_beta1,
            beta2: arguments.adam_beta2,
            epsilon: arguments.adam_epsilon,
            moments: moments.collect::<Result<_>>()?,
        })
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &str {
        OptimizerType::AdamW.name()
    }

    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        let mut updates = Vec::new();
        for (name, parameter) in parameters.iter() {
            let Some(gradient) = gradients.get(name) else { continue };
            let unknown = || Error::UnknownParameter { name: name.to_owned() };
            let moments = self.moments.get_mut(name).ok_or_else(unknown)?;
            require_shape(name, &moments.settings.shape, parameter, gradient)?;
            let settings = &moments.settings;
            let learning_rate = learning_rate * settings.lr_ratio;
            moments.step += 1;
            let t = moments.step as f64;
            let update = Update {
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                decay: 1.0 - learning_rate * settings.weight_decay,
                step_size: learning_rate / (1.0 - self.beta1.powf(t)),
                root_correction: (1.0 - self.beta2.powf(t)).sqrt(),
            };
            updates.push((name, parameter, gradient, update));
        }
        self.apply(&updates)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            let step = Tensor::new(moments.step, &Device::Cpu)?;
            let tensors = [moments.exp_avg.clone(), moments.exp_avg_sq.clone(), step];
            state.extend(Moments::names(name).into_iter().zip(tensors));
        }
        Ok(state)
    }

    fn set_state(&mut self, state: BTreeMap<String, Tensor>) -> Result<()> {
        require_same_tensors(&state, &self.state()?)?;
        for (name, moments) in &mut self.moments {
            let [exp_avg, exp_avg_sq, step] = Moments::names(name).map(|name| &state[&name]);
            // Copies: steps update the moments in place, which must not change the caller's tensors.
            (moments.exp_avg, moments.exp_avg_sq) = (exp_avg.copy()?, exp_avg_sq.copy()?);
            moments.step = step.to_scalar::<i64>()?;
        }
        Ok(())
    }
}

impl AdamW {
    /// Updates the parameters of these names: in one launch on a GPU with kernels, otherwise one after the
    /// other.
    fn apply(&mut self, updates: &[(&str, &Var, &Tensor, Update)]) -> Result<()> {
        if updates.iter().any(|(_, parameter, ..)| !parameter.device().is_cpu()) {
            let updated = updates.iter().filter_map(|(name, parameter, gradient, update)| {
                let moments = self.moments.get(*name)?;
                Some(update.on_device(parameter, moments, gradient))
            });
            let updated: Vec<_> = updated.collect();
            if cuda::adamw(&updated, [self.beta1, self.beta2], self.epsilon)?.is_some() {
                return Ok(());
            }
        }
        for (name, parameter, gradient, update) in updates {
            let Some(moments) = self.moments.get_mut(*name) else { continue };
            if parameter.device().is_cpu() {
                update.fused(parameter, moments, gradient)?;
            } else {
                update.by_operations(parameter, moments, gradient)?;
            }
        }
        Ok(())
    }
}

impl Moments {
    fn names(parameter: &str) -> [String; 3] {
        ["exp_avg", "exp_avg_sq", "step"].map(|moment| format!("{parameter}.{moment}"))
    }
}

/// The scalars of the update of one parameter.
struct Update {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decay: f64,
    step_size: f64,
    root_correction: f64,
}

impl Update {
    fn on_device<'a>(&self, parameter: &'a Var, moments: &'a Moments, gradient: &'a Tensor) -> Updated<'a> {
        Updated {
            parameter,
            gradient,
            exp_avg: &moments.exp_avg,
            exp_avg_sq: &moments.exp_avg_sq,
            decay: self.decay as f32,
            step_size: self.step_size as f32,
            root_correction: self.root_correction as f32,
        }
    }

    fn fused(&self, parameter: &Var, moments: &Moments, gradient: &Tensor) -> candle_core::Result<()> {
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let (rest1, rest2) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        let (epsilon, decay) = (self.epsilon as f32, self.decay as f32);
        let (step_size, root_correction) = (self.step_size as f32, self.root_correction as f32);
        with_slice(gradient, |gradient| {
            with_slice_mut(parameter, |parameter| {
                with_slice_mut(&moments.exp_avg, |exp_avg| {
                    with_slice_mut(&moments.exp_avg_sq, |exp_avg_sq| {
                        for (((p, m), v), &g) in
                            parameter.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(gradient)
                        {
                            *m = beta1 * *m + rest1 * g;
                            *v = beta2 * *v + rest2 * g * g;
                            *p = decay * *p - step_size * *m / (v.sqrt() / root_correction + epsilon);
                        }
                        Ok(())
                    })
                })
            })
        })?
    }

    /// The same with candle's operations, for devices other than the CPU.
    fn by_operations(
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
    use super::*;

    #[test]
    fn the_fused_update_agrees_with_the_update_by_operations() {
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
        let fused = updated(&|p, moments, g| update.fused(p, moments, g).unwrap());
        let by_operations = updated(&|p, moments, g| update.by_operations(p, moments, g).unwrap());
        for (a, b) in fused.iter().zip(&by_operations) {
            assert!((a - b).abs() <= 1e-6 * a.abs(), "{fused:?} is not {by_operations:?}");
        }
    }
}
