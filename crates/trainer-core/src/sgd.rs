use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::optimizer::{require_same_tensors, require_shape};
use crate::parameter_group::ParameterSettings;
use crate::{Error, Gradients, Optimizer, OptimizerType, Parameters, Result, TrainingArguments};

/// Stochastic gradient descent with momentum, with the results of `torch.optim.SGD`.
///
/// For a parameter `θ` with gradient `g` and weight decay `λ`, momentum `μ` and learning rate `η`:
///
/// ```text
/// b ← μ b + (g + λ θ)
/// θ ← θ - η b
/// ```
///
/// `b` is saved as `momentum_buffer`, torch's name, and begins at 0. Without momentum there is no state.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    settings: BTreeMap<String, ParameterSettings>,
    buffers: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// Creates an optimizer for `parameters` with the arguments' momentum, weight decay and groups.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`] for a group without parameters, or whose parameters all belong to earlier groups.
    pub fn new(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Self> {
        let settings = ParameterSettings::for_each(arguments, parameters)?;
        let settings = parameters.iter().map(|(name, _)| name.to_owned()).zip(settings).collect();
        let momentum = arguments.sgd_momentum;
        let with_momentum = parameters.iter().filter(|_| momentum > 0.0);
        let buffers = with_momentum
            .map(|(name, variable)| Ok((buffer_name(name), variable.as_tensor().zeros_like()?)))
            .collect::<Result<_>>()?;
        Ok(Self { momentum, settings, buffers })
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &str {
        OptimizerType::Sgd.name()
    }

    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        for (name, parameter) in parameters.iter() {
            let Some(gradient) = gradients.get(name) else { continue };
            let settings =
                self.settings.get(name).ok_or_else(|| Error::UnknownParameter { name: name.to_owned() })?;
            require_shape(name, &settings.shape, parameter, gradient)?;
            let value = parameter.as_detached_tensor();
            let mut direction = (gradient + (&value * settings.weight_decay)?)?;
            if let Some(buffer) = self.buffers.get_mut(&buffer_name(name)) {
                direction = ((&*buffer * self.momentum)? + direction)?;
                *buffer = direction.clone();
            }
            parameter.set(&(value - (direction * (learning_rate * settings.lr_ratio))?)?)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.buffers.clone())
    }

    fn set_state(&mut self, state: BTreeMap<String, Tensor>) -> Result<()> {
        require_same_tensors(&state, &self.buffers)?;
        self.buffers = state;
        Ok(())
    }
}

fn buffer_name(parameter: &str) -> String {
    format!("{parameter}.momentum_buffer")
}
