use candle_core::Tensor;

use crate::micro_batches::scalar;
use crate::{Gradients, Norms, Optimizer, Parameters, Result};

/// The arguments of [`Optimizer::clipped_step`], which scales sums of gradients, clips them and takes a step.
///
/// ```
/// let step = trainer_core::ClippedStep { factor: 0.25, max_norm: 1.0, ..trainer_core::ClippedStep::new(1e-3) };
/// assert_eq!(step.learning_rate, 1e-3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClippedStep {
    /// Factor of all gradients: 1 / (targets of the step), so that they are those of the mean loss.
    pub factor: f64,
    /// The largest global norm of the scaled gradients; 0 for no clipping.
    pub max_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Whether an optimizer with launches on a device may record them, to replay them in later steps.
    pub device_graph: bool,
}

impl ClippedStep {
    /// A step that neither scales nor clips, and may use a device's graphs.
    pub fn new(learning_rate: f64) -> Self {
        Self { factor: 1.0, max_norm: 0.0, learning_rate, device_graph: true }
    }

    /// The factor that clips gradients of this norm, below 1; `None` if they are not clipped.
    pub(crate) fn coefficient(&self, norm: f64) -> Option<f64> {
        clip_coefficient(norm, self.max_norm)
    }
}

/// The result of [`Optimizer::checked_step`].
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedStep {
    /// The value of each loss.
    pub losses: Vec<f64>,
    /// The norms of the scaled gradients before clipping; `None` if a loss is not finite.
    pub norms: Option<Norms>,
}

impl CheckedStep {
    /// The result for losses and norms that are known both.
    pub(crate) fn new(losses: Vec<f64>, norms: Norms) -> Self {
        let finite = losses.iter().all(|loss| loss.is_finite());
        Self { losses, norms: finite.then_some(norms) }
    }

    /// Whether the parameters were updated.
    pub(crate) fn is_taken(&self) -> bool {
        self.norms.as_ref().is_some_and(|norms| norms.global().is_finite())
    }
}

/// The factor that clips gradients of norm `norm` as `torch.nn.utils.clip_grad_norm_` does; `None` if they are not clipped.
pub(crate) fn clip_coefficient(norm: f64, max_norm: f64) -> Option<f64> {
    let coefficient = max_norm / (norm + 1e-6);
    (max_norm > 0.0 && coefficient < 1.0).then_some(coefficient)
}

/// Scales, measures and clips the gradients, and then takes a [`step`](Optimizer::step).
pub(crate) fn by_parts<O: Optimizer + ?Sized>(
    optimizer: &mut O,
    parameters: &Parameters,
    mut gradients: Gradients,
    step: &ClippedStep,
) -> Result<Norms> {
    gradients.scale(step.factor)?;
    let norms = gradients.norms()?;
    let norm = norms.global();
    if norm.is_finite() {
        gradients.clip(norm, step.max_norm)?;
        optimizer.step(parameters, &gradients, step.learning_rate)?;
    }
    Ok(norms)
}

/// Reads the losses and, if all are finite, takes a [`clipped_step`](Optimizer::clipped_step).
pub(crate) fn after_reading<O: Optimizer + ?Sized>(
    optimizer: &mut O,
    parameters: &Parameters,
    gradients: Gradients,
    losses: &[Tensor],
    step: &ClippedStep,
) -> Result<CheckedStep> {
    let losses = losses.iter().map(scalar).collect::<Result<Vec<_>>>()?;
    let finite = losses.iter().all(|loss| loss.is_finite());
    let norms = finite.then(|| optimizer.clipped_step(parameters, gradients, step)).transpose()?;
    Ok(CheckedStep { losses, norms })
}
