use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::accumulate::{Accumulated, Split, Step, StepMemory, accumulate};
use crate::audit::GradientAudit;
use crate::checkpoint::CheckpointStore;
use crate::data::Epoch;
use crate::early_stopping::EarlyStopping;
use crate::micro_batches::{NotFinite, ranges};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::session::{Session, Votes};
use crate::workers::gather_json;
use crate::{
    BatchSource, ClippedStep, Error, Event, EventSink, LearningRateSchedule, LogEntry, Metric, OnNan,
    Optimizer, Parameters, Result, StepContext, StepReport, StopSignal, Task, TrainerState,
    TrainingArguments, Warning, Workers,
};

/// A run in progress: its parts and its state. This file has the optimizer steps; `best.rs`, `saving.rs`,
/// `start.rs` and `restore.rs` have the other stages.
pub(crate) struct Run<'a, T: Task> {
    pub(crate) task: &'a T,
    pub(crate) evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
    pub(crate) arguments: TrainingArguments,
    pub(crate) plan: Plan,
    pub(crate) schedule: Box<dyn LearningRateSchedule>,
    pub(crate) parameters: Parameters,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) workers: Arc<dyn Workers>,
    /// Whether the optimizer may record its launches as a graph.
    pub(crate) device_graphs: bool,
    pub(crate) memory: StepMemory,
    pub(crate) stop: StopSignal,
    pub(crate) early_stopping: EarlyStopping,
    /// The metric that selects the best evaluation.
    pub(crate) best_metric: Metric,
    pub(crate) audit: GradientAudit,
    pub(crate) store: CheckpointStore,
    pub(crate) sinks: Vec<Box<dyn EventSink>>,
    pub(crate) state: TrainerState,
    pub(crate) progress: Progress,
    pub(crate) session: Session,
    /// The checkpoint that the run was resumed from.
    pub(crate) resumed_from: Option<PathBuf>,
}

impl<T: Task> Run<'_, T> {
    pub(crate) fn steps_made(&self) -> usize {
        self.state.global_step
    }

    /// Whether the run has no steps left, as may be the case for a resumed run.
    pub(crate) fn is_over(&self) -> bool {
        self.state.global_step >= self.plan.max_steps || self.has_converged() || self.out_of_time()
    }

    pub(crate) fn has_converged(&self) -> bool {
        self.early_stopping.is_due(self.progress.without_improvement)
    }

    pub(crate) fn out_of_time(&self) -> bool {
        self.session.votes.out_of_time
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.session.votes.stop
    }

    /// Lets all workers agree whether to stop and whether the time is up. One worker is enough for either.
    pub(crate) fn vote(&mut self) -> Result<()> {
        let limit = self.arguments.max_seconds;
        let own = Votes {
            stop: self.stop.is_requested(),
            out_of_time: limit.is_some_and(|limit| self.session.seconds() >= limit),
        };
        let all = gather_json(self.workers.as_ref(), &own)?;
        self.session.votes = Votes {
            stop: all.iter().any(|votes| votes.stop),
            out_of_time: all.iter().any(|votes| votes.out_of_time),
        };
        Ok(())
    }

    /// Whether this worker writes the files of the run.
    pub(crate) fn leads(&self) -> bool {
        self.workers.rank() == 0
    }

    /// Indices of the batches that this worker trains on in the rest of the current epoch; `None` if there is
    /// only one worker.
    pub(crate) fn own_batches(&self) -> Option<Vec<usize>> {
        let fuse = self.arguments.fused_micro_batches;
        let of_step = |done: usize| {
            let passes: Vec<_> = ranges(self.plan.batches_of_step(done), fuse).collect();
            let own = passes[self.workers.share(passes.len())].to_vec();
            let first = self.plan.first_batch(done);
            own.into_iter().flatten().map(move |batch| first + batch)
        };
        let steps = self.plan.rest_of_epoch(self.state.global_step);
        (self.workers.count() > 1).then(|| steps.flat_map(of_step).collect())
    }

    /// Returns the learning rate of the next step.
    pub(crate) fn learning_rate(&self) -> Result<f64> {
        let done = self.state.global_step;
        let value = self.schedule.learning_rate(done, self.plan.max_steps);
        if value.is_finite() && value >= 0.0 {
            Ok(value)
        } else {
            Err(Error::LearningRate { step: done + 1, schedule: self.schedule.name().to_owned(), value })
        }
    }

    /// Takes the next step; returns its sums and the norm of its gradients before clipping. An error if the loss or the
    /// norm is not finite, or if a parameter got no gradient; the parameters are then unchanged.
    pub(crate) fn take_step(
        &mut self,
        batches: &mut Epoch<'_, T::Batch>,
        learning_rate: f64,
    ) -> Result<(Accumulated, f64)> {
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
        let mut sum = accumulate(&step, batches, &mut self.memory)?;
        if let Some(NotFinite { quantity, value, batches }) = sum.not_finite {
            return Err(self.non_finite(quantity, value, learning_rate, batches));
        }
        GradientAudit::require_gradients(done + 1, &sum.gradients, &self.parameters)?;
        let grad_norm = self.update(&mut sum, learning_rate)?;
        Ok((sum, grad_norm))
    }

    /// Clips the gradients and updates the parameters.
    fn update(&mut self, sum: &mut Accumulated, learning_rate: f64) -> Result<f64> {
        let step = ClippedStep {
            factor: 1.0 / sum.loss.targets as f64,
            max_norm: self.arguments.max_grad_norm,
            learning_rate,
            device_graph: self.device_graphs,
        };
        let gradients = std::mem::take(&mut sum.gradients);
        let norms = self.optimizer.clipped_step(&self.parameters, gradients, &step)?;
        let grad_norm = norms.global();
        if !grad_norm.is_finite() {
            let batches = sum.batches.clone();
            return Err(self.non_finite("gradient norm".to_owned(), grad_norm, learning_rate, batches));
        }
        let names = self.audit.observe(&norms, learning_rate);
        let silent = (!names.is_empty()).then_some(Warning::ZeroGradients { names });
        let warnings = silent.into_iter().chain(self.task.take_warnings());
        let warnings: Vec<Warning> = warnings.chain(self.optimizer.take_warnings()).collect();
        warnings.into_iter().try_for_each(|warning| self.emit(Event::Warning(warning)))?;
        Ok(grad_norm)
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

    fn count_step(&mut self) {
        self.state.global_step += 1;
        self.state.epoch = self.plan.epochs_after(self.state.global_step);
    }

    /// Counts and logs a completed step.
    pub(crate) fn record(&mut self, sum: &Accumulated, grad_norm: f64, learning_rate: f64) -> Result<()> {
        self.count_step();
        self.progress.since_log += sum.loss;
        self.progress.total += sum.loss;
        let seconds = self.session.step_started.elapsed().as_secs_f64();
        self.session.add(sum.samples, sum.loss.targets, seconds);
        self.emit(Event::Step(StepReport {
            global_step: self.state.global_step,
            max_steps: self.plan.max_steps,
            epoch: self.state.epoch,
            loss: sum.loss.mean(),
            grad_norm,
            learning_rate,
            samples: sum.samples,
            targets: sum.loss.targets,
            seconds,
        }))?;
        if !self.plan.logs_after(self.state.global_step) {
            return Ok(());
        }
        let loss = std::mem::take(&mut self.progress.since_log).mean();
        let (epoch, step) = (self.state.epoch, self.state.global_step);
        self.log(LogEntry::Train { loss, grad_norm, learning_rate, epoch, step })?;
        let throughput = self.session.throughput(step);
        self.emit(Event::Throughput(throughput))
    }

    pub(crate) fn log(&mut self, entry: LogEntry) -> Result<()> {
        self.state.log_history.push(entry.clone());
        self.emit(Event::Log(entry))
    }

    pub(crate) fn emit(&mut self, event: Event) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.event(&event)).map_err(|source| Error::Sink { source })
    }

    /// The newest checkpoint of this run, or the one it was resumed from.
    pub(crate) fn last_good(&self) -> Option<PathBuf> {
        let own = self.progress.saved.last().map(|step| self.store.path(*step));
        own.or_else(|| self.resumed_from.clone())
    }

    fn non_finite(&self, quantity: String, value: f64, learning_rate: f64, batches: Vec<String>) -> Error {
        let step = self.state.global_step + 1;
        Error::NonFinite { step, quantity, value, learning_rate, batches, checkpoint: self.last_good() }
    }
}
