use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use crate::groups::ParameterSettings;
use crate::slices::{with_slice, with_slice_mut};
use crate::{Error, Gradients, Optimizer, Parameters, Result, TrainingArguments, tensors};

/// AdamW, Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as `torch.optim.AdamW` computes it.
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
/// `m` is saved as `exp_avg` and `v` as `exp_avg_sq`, torch's names; both are f32 and begin at 0. A parameter
/// without a gradient is left as it is: no decay, no change of its moments, no step counted.
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
    /// An optimizer for `parameters` with the arguments' betas, epsilon, weight decay and groups, before its first step.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`] for a group that no parameter is in, or only such as earlier groups have.
    pub fn new(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Self> {
        let settings = ParameterSettings::of_each(arguments, parameters)?;
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

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            let step = Tensor::new(moments.step, &Device::Cpu)?;
            let tensors = [moments.exp_avg.clone(), moments.exp_avg_sq.clone(), step];
            state.extend(Moments::names(name).into_iter().zip(tensors));
        }
        Ok(state)
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        for (name, parameter) in parameters.iter() {
            let Some(gradient) = gradients.get(name) else { continue };
            let moments =
                self.moments.get_mut(name).ok_or_else(|| Error::UnknownParameter(name.to_owned()))?;
            let expected = moments.exp_avg.dims();
            let mut given = [parameter.dims(), gradient.dims()].into_iter();
            if let Some(got) = given.find(|dims| *dims != expected) {
                let (expected, got) = (expected.to_vec(), got.to_vec());
                return Err(Error::ParameterShape { name: name.to_owned(), expected, got });
            }
            let settings = moments.settings;
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
            if parameter.device().is_cpu() {
                update.in_one_pass(parameter, moments, gradient)?;
            } else {
                update.by_operations(parameter, moments, gradient)?;
            }
        }
        Ok(())
    }

    /// Writes moments and step counts to a safetensors file, as `NAME.exp_avg`, `NAME.exp_avg_sq` and `NAME.step`.
    fn save(&self, path: &Path) -> Result<()> {
        tensors::save(path, self.state()?)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let state = tensors::load_like(path, &self.state()?)?;
        for (name, moments) in &mut self.moments {
            let [exp_avg, exp_avg_sq, step] = Moments::names(name).map(|name| &state[&name]);
            (moments.exp_avg, moments.exp_avg_sq) = (exp_avg.clone(), exp_avg_sq.clone());
            moments.step = step.to_scalar::<i64>()?;
        }
        Ok(())
    }
}

impl Moments {
    fn names(parameter: &str) -> [String; 3] {
        ["exp_avg", "exp_avg_sq", "step"].map(|moment| format!("{parameter}.{moment}"))
    }
}

/// The scalars of one parameter's step.
struct Update {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decay: f64,
    step_size: f64,
    root_correction: f64,
}

impl Update {
    fn in_one_pass(&self, parameter: &Var, moments: &Moments, gradient: &Tensor) -> candle_core::Result<()> {
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

    /// The same with candle's operations, for devices whose memory cannot be reached from here.
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

    /// The CPU's one pass and the operations for other devices are one formula.
    #[test]
    fn both_ways_to_update_agree() {
        let values = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap();
        let update = Update {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            decay: 0.98,
            step_size: 0.3,
            root_correction: 0.2,
        };
        let updated = |way: &dyn Fn(&Var, &mut Moments, &Tensor)| {
            let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
            let parameter = Var::from_tensor(&tensor([1.0, -2.0, 0.0])).unwrap();
            let (exp_avg, exp_avg_sq) = (tensor([0.1, -0.2, 0.0]), tensor([0.01, 0.5, 0.0]));
            let settings = ParameterSettings { lr_ratio: 1.0, weight_decay: 0.0 };
            let mut moments = Moments { settings, exp_avg, exp_avg_sq, step: 3 };
            way(&parameter, &mut moments, &tensor([0.7, -3.0, 1e-3]));
            [values(&parameter), values(&moments.exp_avg), values(&moments.exp_avg_sq)].concat()
        };
        let in_one_pass = updated(&|p, moments, g| update.in_one_pass(p, moments, g).unwrap());
        let by_operations = updated(&|p, moments, g| update.by_operations(p, moments, g).unwrap());
        for (a, b) in in_one_pass.iter().zip(&by_operations) {
            assert!((a - b).abs() <= 1e-6 * a.abs(), "{in_one_pass:?} is not {by_operations:?}");
        }
    }
}
