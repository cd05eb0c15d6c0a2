//! The optimizer steps of a run.

use std::time::Instant;

use crate::accumulate::{Accumulated, Losses, Split, Step, accumulate};
use crate::audit::GradientAudit;
use crate::data::Epoch;
use crate::micro_batches::{NotFinite, scalar};
use crate::passes::{Passes, Totals};
use crate::run::Run;
use crate::{
    CheckedStep, ClippedStep, Error, Event, Gradients, Norms, OnNan, Result, StepContext, Task, Warning,
};

impl<T: Task> Run<'_, T> {
    /// Takes the next step; returns its sums and the norm of its gradients before clipping. An error if the loss or the
    /// norm is not finite, or if a parameter got no gradient; the parameters are then unchanged.
    pub(crate) fn take_step(
        &mut self,
        batches: &mut Epoch<'_, T::Batch>,
        learning_rate: f64,
    ) -> Result<(Totals, f64)> {
        self.session.step_started = Instant::now();
        let done = self.state.global_step;
        let count = self.plan.batches_of_step(done);
        let step = Step {
            task: self.task,
            parameters: &self.parameters,
            split: Split { count, fuse: self.arguments.fused_micro_batches },
            start: StepContext { seed: self.arguments.seed, step: done as u64, first_sample: 0 },
            workers: self.workers.as_ref(),
        };
        let Accumulated { gradients, targets, losses } = accumulate(&step, batches, &mut self.memory)?;
        let step = ClippedStep {
            factor: 1.0 / targets as f64,
            max_norm: self.arguments.max_grad_norm,
            learning_rate,
            device_graph: self.device_graphs,
        };
        let complete = GradientAudit::require_gradients(done + 1, &gradients, &self.parameters);
        let (totals, norms) = match losses {
            Losses::Read(totals) => {
                self.require_finite(&totals, learning_rate)?;
                complete?;
                let taken = self.optimizer.checked_step(&self.parameters, gradients, &[], &step)?;
                (totals, taken.norms)
            }
            Losses::Unread(passes) => self.checked(gradients, complete, passes, &step)?,
        };
        let without =
            || Error::Optimizer { source: "it returned no norms of finite losses' gradients".into() };
        let norms = norms.ok_or_else(without)?;
        let grad_norm = norms.global();
        if !grad_norm.is_finite() {
            return Err(self.non_finite(
                "gradient norm".to_owned(),
                grad_norm,
                learning_rate,
                totals.batches,
            ));
        }
        self.warn_after_step(&norms, learning_rate)?;
        Ok((totals, grad_norm))
    }

    /// Updates the parameters, unless a loss of these passes or the norm is not finite. The losses are read with the norms. `complete` is an
    /// error if a gradient is missing: the parameters are then unchanged too.
    fn checked(
        &mut self,
        gradients: Gradients,
        complete: Result<()>,
        passes: Passes<T::Batch>,
        step: &ClippedStep,
    ) -> Result<(Totals, Option<Norms>)> {
        let losses = passes.losses();
        let (values, norms) = match &complete {
            Ok(()) => {
                let taken = self.optimizer.checked_step(&self.parameters, gradients, &losses, step)?;
                let CheckedStep { losses, norms } = taken;
                (losses, norms)
            }
            Err(_) => (losses.iter().map(scalar).collect::<Result<_>>()?, None),
        };
        let count = self.plan.batches_of_step(self.state.global_step);
        let totals = Totals::of(passes.reports(&values, self.task, count)?);
        // A loss that is not finite explains gradients that are missing.
        self.require_finite(&totals, step.learning_rate)?;
        complete?;
        Ok((totals, norms))
    }

    fn require_finite(&self, totals: &Totals, learning_rate: f64) -> Result<()> {
        match totals.not_finite.clone() {
            None => Ok(()),
            Some(NotFinite { quantity, value, batches }) => {
                Err(self.non_finite(quantity, value, learning_rate, batches))
            }
        }
    }

    /// Emits the warnings of a step that was taken.
    fn warn_after_step(&mut self, norms: &Norms, learning_rate: f64) -> Result<()> {
        let names = self.audit.observe(norms, learning_rate);
        let silent = (!names.is_empty()).then_some(Warning::ZeroGradients { names });
        let warnings = silent.into_iter().chain(self.task.take_warnings());
        let warnings: Vec<Warning> = warnings.chain(self.optimizer.take_warnings()).collect();
        warnings.into_iter().try_for_each(|warning| self.emit(Event::Warning(warning)))
    }

    /// Skips a step that is not finite, if `on_nan` allows it. Returns any other error.
    pub(crate) fn skip(&mut self, error: Error) -> Result<()> {
        let reason = match &error {
            Error::NonFinite { step, quantity, value, learning_rate, batches, .. }
                if self.arguments.on_nan == OnNan::Skip =>
            {
                let batches = batches.join("; ");
                format!(
                    "step {step}: the {quantity} is {value} at learning rate {learning_rate:e} (batch: {batches})"
                )
            }
            _ => return Err(error),
        };
        let limit = self.arguments.max_skipped_steps;
        if self.progress.skipped >= limit {
            let (skipped, checkpoint) = (self.progress.skipped, self.last_good());
            return Err(Error::TooManySkipped { skipped, reason, checkpoint });
        }
        self.progress.skipped += 1;
        self.count_step();
        self.emit(Event::Warning(Warning::StepSkipped {
            step: self.state.global_step,
            skipped: self.progress.skipped,
            limit,
            reason,
        }))
    }

    fn non_finite(&self, quantity: String, value: f64, learning_rate: f64, batches: Vec<String>) -> Error {
        let step = self.state.global_step + 1;
        Error::NonFinite { step, quantity, value, learning_rate, batches, checkpoint: self.last_good() }
    }
}
