//! A step of all parameters at once.

use candle_core::{Tensor, Var};

use super::AdamW;
use super::update::Update;
use crate::clipped_step::{CheckedStep, ClippedStep};
use crate::cuda::{self, Clipping, Updated};
use crate::optimizer::require_shape;
use crate::{Error, Gradients, Norms, Parameters, Result, Warning};

/// A parameter with its gradient and the scalars of its next update.
pub(super) struct Pending<'a> {
    pub(super) name: &'a str,
    pub(super) parameter: &'a Var,
    pub(super) gradient: &'a Tensor,
    pub(super) update: Update,
}

impl AdamW {
    /// A step in which gradients are scaled, measured, clipped and used without new tensors: on the CPU, where there are no `losses`, or
    /// on a GPU with kernels. `None` if these do not serve the tensors.
    pub(super) fn taken_together(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        losses: &[Tensor],
        step: &ClippedStep,
    ) -> Result<Option<CheckedStep>> {
        let pending = self.pending(parameters, gradients, step.learning_rate)?;
        // Gradients of other parameters count for the norm too.
        if pending.len() < gradients.len() {
            return Ok(None);
        }
        let on_cpu = pending.iter().all(|pending| pending.parameter.device().is_cpu());
        let taken = match on_cpu {
            true if losses.is_empty() => {
                let norms = self.clipped_on_cpu(&pending, gradients, step)?;
                Some(CheckedStep::new(Vec::new(), norms))
            }
            true => None,
            false => self.clipped_on_device(&pending, losses, step)?,
        };
        if taken.as_ref().is_some_and(CheckedStep::is_taken) {
            self.count(&pending);
        }
        Ok(taken)
    }

    /// The next update of each parameter that has a gradient.
    pub(super) fn pending<'a>(
        &self,
        parameters: &'a Parameters,
        gradients: &'a Gradients,
        learning_rate: f64,
    ) -> Result<Vec<Pending<'a>>> {
        let with_gradients =
            parameters.iter().filter_map(|(name, variable)| Some((name, variable, gradients.get(name)?)));
        let pending = with_gradients.map(|(name, parameter, gradient)| {
            let unknown = || Error::UnknownParameter { name: name.to_owned() };
            let moments = self.moments.get(name).ok_or_else(unknown)?;
            let settings = &moments.settings;
            require_shape(name, &settings.shape, parameter, gradient)?;
            let learning_rate = learning_rate * settings.lr_ratio;
            let t = (moments.step + 1) as f64;
            let update = Update {
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                decay: 1.0 - learning_rate * settings.weight_decay,
                step_size: learning_rate / (1.0 - self.beta1.powf(t)),
                root_correction: (1.0 - self.beta2.powf(t)).sqrt(),
            };
            Ok(Pending { name, parameter, gradient, update })
        });
        pending.collect()
    }

    /// Counts the steps of these parameters.
    pub(super) fn count(&mut self, pending: &[Pending<'_>]) {
        for Pending { name, .. } in pending {
            if let Some(moments) = self.moments.get_mut(*name) {
                moments.step += 1;
            }
        }
    }

    fn clipped_on_cpu(
        &self,
        pending: &[Pending<'_>],
        gradients: &Gradients,
        step: &ClippedStep,
    ) -> Result<Norms> {
        let norms = gradients.scaled_norms(step.factor)?;
        let norm = norms.global();
        if !norm.is_finite() {
            return Ok(norms);
        }
        // A factor of 1 changes no number, since the first factor has made 0 of -0.
        let factors = [step.factor as f32, step.coefficient(norm).unwrap_or(1.0) as f32];
        for Pending { name, parameter, gradient, update } in pending {
            if let Some(moments) = self.moments.get(*name) {
                update.on_cpu(parameter, moments, gradient, Some(factors))?;
            }
        }
        Ok(norms)
    }

    /// `None` without kernels for these tensors.
    fn clipped_on_device(
        &mut self,
        pending: &[Pending<'_>],
        losses: &[Tensor],
        step: &ClippedStep,
    ) -> Result<Option<CheckedStep>> {
        let clipping = Clipping { max_norm: step.max_norm, graph: step.device_graph };
        let updated = self.on_device(pending, step.factor);
        let Some(clipped) = cuda::clipped_adamw(&updated, losses, &self.scalars(), &clipping)? else {
            return Ok(None);
        };
        self.warnings.extend(clipped.refused.map(|reason| {
            let work = "the steps of the optimizer".to_owned();
            Warning::GraphNotRecorded { work, reason }
        }));
        let names = pending.iter().map(|pending| pending.name.to_owned());
        Ok(Some(CheckedStep::new(clipped.losses, names.zip(clipped.norms).collect())))
    }

    pub(super) fn on_device<'a>(&'a self, pending: &'a [Pending<'a>], scale: f64) -> Vec<Updated<'a>> {
        let updated = pending.iter().filter_map(|Pending { name, parameter, gradient, update }| {
            Some(update.on_device(parameter, self.moments.get(*name)?, gradient, scale))
        });
        updated.collect()
    }

    pub(super) fn scalars(&self) -> cuda::Update {
        cuda::Update { betas: [self.beta1, self.beta2], epsilon: self.epsilon }
    }
}
