use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{AdamW, Gradients, Parameters, Result, Sgd, TrainingArguments};

/// How gradients change parameters.
///
/// A parameter without a gradient is left as it is, its state with it.
pub trait Optimizer: fmt::Debug {
    /// Updates every parameter that has a gradient, at `learning_rate` times the ratio of its group.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`](crate::Error::UnknownParameter) and
    /// [`Error::ParameterShape`](crate::Error::ParameterShape) for one that the optimizer was not made for.
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()>;

    /// Writes the state, by the names of the parameters, to a safetensors file. The engine syncs it with the rest of a
    /// checkpoint.
    fn save(&self, path: &Path) -> Result<()>;

    /// Restores what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Tensors`](crate::Error::Tensors) lists every tensor that is missing, unexpected or misshapen; then
    /// nothing has changed.
    fn load(&mut self, path: &Path) -> Result<()>;
}

/// The optimizers, by the names of torch and of Hugging Face's `optim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(crate) fn build(
        arguments: &TrainingArguments,
        parameters: &Parameters,
    ) -> Result<Box<dyn Optimizer>> {
        Ok(match arguments.optim {
            Self::AdamW => Box::new(AdamW::new(arguments, parameters)?),
            Self::Sgd => Box::new(Sgd::new(arguments, parameters)?),
        })
    }
}

impl fmt::Display for OptimizerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdamW => "adamw_torch",
            Self::Sgd => "sgd",
        })
    }
}
