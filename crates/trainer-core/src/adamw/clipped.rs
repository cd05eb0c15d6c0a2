//! A step on the CPU that scales and clips in its own loop, and the steps of a device with kernels.

use super::{AdamW, Pending};
use crate::clipped_step::ClippedStep;
use crate::cuda::{self, Clipping, Updated};
use crate::{Gradients, Norms, Result, Warning};

impl AdamW {
    pub(super) fn clipped_on_cpu(
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
    pub(super) fn clipped_on_device(
        &mut self,
        pending: &[Pending<'_>],
        step: &ClippedStep,
    ) -> Result<Option<Norms>> {
        let clipping = Clipping { max_norm: step.max_norm, graph: step.device_graph };
        let updated = self.on_device(pending, step.factor);
        let Some(clipped) = cuda::clipped_adamw(&updated, &self.scalars(), &clipping)? else {
            return Ok(None);
        };
        self.warnings.extend(clipped.refused.map(|reason| {
            let work = "the steps of the optimizer".to_owned();
            Warning::GraphNotRecorded { work, reason }
        }));
        let names = pending.iter().map(|pending| pending.name.to_owned());
        Ok(Some(names.zip(clipped.norms).collect()))
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
