use std::collections::BTreeSet;

use crate::{Error, Gradients, Norms, Parameters, Result};

/// Checks that every trainable parameter is really trained.
///
/// An operation without a backward pass cuts the graph silently, and the loss may still fall. Every step therefore
/// requires a gradient for every parameter, and gradients that are exactly zero in all of the first steps are reported.
///
/// Some gradients are zero at first for good reason: LoRA's A has none while B is 0, and B stays 0 while the learning rate
/// is 0, as in the first step of a warm-up. The report therefore waits for [`Self::UPDATES`] steps at a learning rate
/// above 0, one more than LoRA needs.
#[derive(Debug)]
pub(crate) struct GradientAudit {
    /// Parameters whose gradients were all zero so far; `None` once reported.
    silent: Option<BTreeSet<String>>,
    updates: usize,
}

impl GradientAudit {
    const UPDATES: usize = 2;

    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self { silent: Some(parameters.iter().map(|(name, _)| name.to_owned()).collect()), updates: 0 }
    }

    /// Returns an error that names every parameter without a gradient in `step` (from 1).
    pub(crate) fn require_gradients(
        step: usize,
        gradients: &Gradients,
        parameters: &Parameters,
    ) -> Result<()> {
        let names = gradients.missing(parameters);
        if names.is_empty() { Ok(()) } else { Err(Error::MissingGradients { step, names }) }
    }

    /// Records the gradient norms of a step that was taken at `learning_rate`. Returns, once in a run, the
    /// parameters whose gradients were all exactly zero.
    pub(crate) fn observe(&mut self, norms: &Norms, learning_rate: f64) -> Vec<String> {
        let Some(silent) = &mut self.silent else { return Vec::new() };
        for (name, norm) in norms.iter() {
            if norm != 0.0 {
                silent.remove(name);
            }
        }
        if self.updates >= Self::UPDATES {
            return self.silent.take().into_iter().flatten().collect();
        }
        self.updates += usize::from(learning_rate > 0.0);
        Vec::new()
    }
}
