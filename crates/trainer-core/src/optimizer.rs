use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::clipped_step::{CheckedStep, ClippedStep, after_reading, by_parts};
use crate::{AdamW, Error, Gradients, Norms, Parameters, Result, Sgd, TrainingArguments, Warning, tensors};

/// Updates parameters from their gradients.
///
/// [`TrainingArguments::optim`] selects a built-in optimizer; [`Trainer::optimizer`](crate::Trainer::optimizer) takes any
/// other. Its state is saved in every checkpoint and restored on resume.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle_core::Tensor;
/// use trainer_core::{Gradients, Optimizer, Parameters, Result};
///
/// /// Moves every scalar by the learning rate, against the sign of its gradient. Has no state.
/// #[derive(Debug)]
/// struct SignSgd;
///
/// impl Optimizer for SignSgd {
///     fn name(&self) -> &str {
///         "sign_sgd"
///     }
///
///     fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
///         for (name, parameter) in parameters.iter() {
///             let Some(gradient) = gradients.get(name) else { continue };
///             parameter.set(&(parameter.as_detached_tensor() - (gradient.sign()? * learning_rate)?)?)?;
///         }
///         Ok(())
///     }
///
///     fn state(&self) -> Result<BTreeMap<String, Tensor>> {
///         Ok(BTreeMap::new())
///     }
///
///     fn set_state(&mut self, _state: BTreeMap<String, Tensor>) -> Result<()> {
///         Ok(())
///     }
/// }
/// ```
pub trait Optimizer: fmt::Debug + Send {
    /// Names the kind of optimizer. A checkpoint records it, and a run with another kind cannot resume from it.
    fn name(&self) -> &str;

    /// Updates every parameter that has a gradient. A parameter without one is unchanged, and so is its state.
    ///
    /// # Errors
    /// The built-in optimizers return [`Error::UnknownParameter`] and [`Error::ParameterShape`] for a parameter that they
    /// were not created for. Others can wrap their own errors in [`Error::Optimizer`].
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()>;

    /// Scales the gradients, clips them by their global norm, and updates the parameters. Returns the norms of the scaled gradients before
    /// clipping. If the global norm is not finite, nothing is changed.
    ///
    /// By default it is [`Gradients::scale`], [`Gradients::norms`], [`Gradients::clip`] and
    /// [`step`](Self::step); an optimizer that does all this in fewer operations must get the same bits.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    fn clipped_step(
        &mut self,
        parameters: &Parameters,
        gradients: Gradients,
        step: &ClippedStep,
    ) -> Result<Norms> {
        by_parts(self, parameters, gradients, step)
    }

    /// Takes a [`clipped_step`](Self::clipped_step), unless one of `losses`, which are scalars, is not finite: then nothing is changed.
    ///
    /// The engine calls this method with the losses of the step's passes, or with none if several workers have exchanged them already. By
    /// default it reads them first. An optimizer that tests them on their device can take the step before they are read, so that the host
    /// waits for the device once a step instead of twice.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    fn checked_step(
        &mut self,
        parameters: &Parameters,
        gradients: Gradients,
        losses: &[Tensor],
        step: &ClippedStep,
    ) -> Result<CheckedStep> {
        after_reading(self, parameters, gradients, losses, step)
    }

    /// Returns warnings that were not returned yet. The engine emits them after each step. Default: none.
    fn take_warnings(&mut self) -> Vec<Warning> {
        Vec::new()
    }

    /// Returns the whole state as named tensors, such as `NAME.exp_avg`. The names, shapes and types must not
    /// depend on the number of steps, because [`load`](Self::load) expects exactly these. The tensors may share
    /// memory with the optimizer.
    ///
    /// # Errors
    /// [`Error::Candle`].
    fn state(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Replaces the state by one that [`state`](Self::state) returned.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] lists all missing, unexpected and misshapen tensors; nothing is changed then.
    fn set_state(&mut self, state: BTreeMap<String, Tensor>) -> Result<()>;

    /// Writes the [`state`](Self::state) to a safetensors file. The engine syncs it with the rest of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn save(&self, path: &Path) -> Result<()> {
        tensors::save(path, self.state()?)
    }

    /// Restores the state that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Tensors`] lists all missing, unexpected and misshapen tensors; nothing is changed then.
    fn load(&mut self, path: &Path) -> Result<()> {
        let state = tensors::load_like(path, &self.state()?)?;
        self.set_state(state)
    }
}

/// Returns an error unless `given` has exactly the tensors of `own`.
pub(crate) fn require_same_tensors(
    given: &BTreeMap<String, Tensor>,
    own: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let problems = tensors::differences(given, own);
    if problems.is_empty() { Ok(()) } else { Err(Error::OptimizerState { problems }) }
}

/// Returns an error unless the parameter and its gradient have the shape that the optimizer was created for.
pub(crate) fn require_shape(
    name: &str,
    expected: &[usize],
    parameter: &Var,
    gradient: &Tensor,
) -> Result<()> {
    let mut given = [parameter.dims(), gradient.dims()].into_iter();
    match given.find(|dims| *dims != expected) {
        None => Ok(()),
        Some(got) => {
            let (expected, got) = (expected.to_vec(), got.to_vec());
            Err(Error::ParameterShape { name: name.to_owned(), expected, got })
        }
    }
}

/// The built-in optimizers, with the names of torch and of Hugging Face's `optim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OptimizerType {
    /// [`AdamW`].
    #[default]
    #[serde(rename = "adamw_torch", alias = "adamw")]
    AdamW,
    /// [`Sgd`].
    #[serde(rename = "sgd")]
    Sgd,
}

impl OptimizerType {
    /// The name, as in JSON: `adamw_torch`, `sgd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW => "adamw_torch",
            Self::Sgd => "sgd",
        }
    }

    /// Creates the optimizer that the arguments select.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`].
    pub fn build(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Box<dyn Optimizer>> {
        Ok(match arguments.optim {
            Self::AdamW => Box::new(AdamW::new(arguments, parameters)?),
            Self::Sgd => Box::new(Sgd::new(arguments, parameters)?),
        })
    }
}

impl fmt::Display for OptimizerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
