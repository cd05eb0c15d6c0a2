mod together;
mod update;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::clipped_step::{CheckedStep, ClippedStep, after_reading, by_parts};
use crate::cuda;
use crate::optimizer::require_same_tensors;
use crate::parameter_group::ParameterSettings;
use crate::{Gradients, Norms, Optimizer, OptimizerType, Parameters, Result, TrainingArguments, Warning};

use together::Pending;

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
    /// Not yet taken.
    warnings: Vec<Warning>,
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
    /// [`Error::EmptyGroup`](crate::Error::EmptyGroup) for a group without parameters, or whose parameters all belong to earlier groups.
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
            warnings: Vec::new(),
        })
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &str {
        OptimizerType::AdamW.name()
    }

    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        let pending = self.pending(parameters, gradients, learning_rate)?;
        if pending.iter().any(|pending| !pending.parameter.device().is_cpu())
            && cuda::adamw(&self.on_device(&pending, 1.0), &self.scalars())?.is_some()
        {
            self.count(&pending);
            return Ok(());
        }
        for Pending { name, parameter, gradient, update } in &pending {
            let Some(moments) = self.moments.get_mut(*name) else { continue };
            if parameter.device().is_cpu() {
                update.on_cpu(parameter, moments, gradient, None)?;
            } else {
                update.by_operations(parameter, moments, gradient)?;
            }
        }
        self.count(&pending);
        Ok(())
    }

    /// Without new tensors, on the CPU and on a GPU with kernels. There the launches are replayed as a CUDA graph from the second step
    /// on.
    fn clipped_step(
        &mut self,
        parameters: &Parameters,
        gradients: Gradients,
        step: &ClippedStep,
    ) -> Result<Norms> {
        match self.taken_together(parameters, &gradients, &[], step)?.and_then(|taken| taken.norms) {
            Some(norms) => Ok(norms),
            None => by_parts(self, parameters, gradients, step),
        }
    }

    /// On a GPU with kernels, the launches test the losses, so that the host waits only for the norms and losses together.
    fn checked_step(
        &mut self,
        parameters: &Parameters,
        gradients: Gradients,
        losses: &[Tensor],
        step: &ClippedStep,
    ) -> Result<CheckedStep> {
        let on_device = losses.iter().any(|loss| !loss.device().is_cpu());
        let taken = match on_device {
            true => self.taken_together(parameters, &gradients, losses, step)?,
            false => None,
        };
        match taken {
            Some(taken) => Ok(taken),
            None => after_reading(self, parameters, gradients, losses, step),
        }
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
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

impl Moments {
    fn names(parameter: &str) -> [String; 3] {
        ["exp_avg", "exp_avg_sq", "step"].map(|moment| format!("{parameter}.{moment}"))
    }
}
