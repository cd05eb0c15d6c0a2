use std::collections::BTreeSet;

use crate::{Error, Gradients, Norms, Parameters, Result};

/// Checks that training trains everything it says it trains.
///
/// An operation without a backward pass cuts the graph silently, and a loss that falls all the same hides it.
/// So every step demands a gradient for every parameter; and in the first steps a gradient that is present but exactly
/// zero each time is reported.
///
/// Zero is what some parameters must begin with: while LoRA's B is 0, so is the gradient of A. And B stays 0 for as
/// long as the learning rate is 0, as it is at the first step of a warm-up. Hence the verdict falls once
/// [`Self::UPDATES`] steps have moved the parameters, one more than LoRA needs.
#[derive(Debug)]
pub(crate) struct GradientAudit {
    /// Parameters that have had nothing but zero gradients; `None` when the verdict is out.
    silent: Option<BTreeSet<String>>,
    updates: usize,
}

impl GradientAudit {
    const UPDATES: usize = 2;

    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self { silent: Some(parameters.iter().map(|(name, _)| name.to_owned()).collect()), updates: 0 }
    }

    /// An error that names every parameter without a gradient in the given step, from 1.
    pub(crate) fn require_gradients(
        step: usize,
        gradients: &Gradients,
        parameters: &Parameters,
    ) -> Result<()> {
        let names = gradients.missing(parameters);
        if names.is_empty() { Ok(()) } else { Err(Error::MissingGradients { step, names }) }
    }

    /// Takes note of a step's gradients, before the step is taken at `learning_rate`. Returns, once in a run, the
    /// parameters whose gradients have all been exactly zero.
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
