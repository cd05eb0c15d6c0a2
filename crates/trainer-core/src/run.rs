use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use crate::accumulate::{Accumulated, Cut, Votes, accumulate};
use crate::audit::GradientAudit;
use crate::checkpoint::CheckpointStore;
use crate::data::Epoch;
use crate::evaluation::evaluate;
use crate::group::NotFinite;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::stopping::EarlyStopping;
use crate::{
    BatchSource, Error, Event, EventSink, LogEntry, Metric, OnNan, Optimizer, Parameters, Result, Schedule,
    StepContext, StepReport, StopSignal, Task, Throughput, TrainerState, TrainingArguments, Warning, Workers,
    resident_bytes,
};

/// A run in progress: the parts of the training loop, and all the state that they share.
pub(crate) struct Run<'a, T: Task> {
    pub(crate) task: &'a T,
    pub(crate) evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
    pub(crate) arguments: TrainingArguments,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) parameters: Parameters,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) workers: Box<dyn Workers>,
    pub(crate) stop: StopSignal,
    pub(crate) early_stopping: EarlyStopping,
    /// The metric that says which evaluation is the best.
    pub(crate) best_metric: Metric,
    pub(crate) audit: GradientAudit,
    pub(crate) store: CheckpointStore,
    pub(crate) sinks: Vec<Box<dyn EventSink>>,
    pub(crate) state: TrainerState,
    pub(crate) progress: Progress,
    pub(crate) session: Session,
    /// The checkpoint that the run goes on from.
    pub(crate) resumed_from: Option<PathBuf>,
}

impl<T: Task> Run<'_, T> {
    pub(crate) fn steps_made(&self) -> usize {
        self.state.global_step
    }

    /// Whether there is nothing to do from the start, as may be so in a run that is resumed.
    pub(crate) fn is_over(&self) -> bool {
        self.state.global_step >= self.plan.max_steps || self.has_converged() || self.out_of_time()
    }

    pub(crate) fn has_converged(&self) -> bool {
        self.early_stopping.is_due(self.progress.without_improvement)
    }

    /// Seconds of training, before a resume too.
    pub(crate) fn seconds(&self) -> f64 {
        self.session.seconds_before + self.session.started.elapsed().as_secs_f64()
    }

    pub(crate) fn out_of_time(&self) -> bool {
        let votes = self.session.votes.out_of_time;
        votes || self.decides_alone() && self.arguments.max_seconds.is_some_and(|max| self.seconds() >= max)
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.session.votes.stop || self.decides_alone() && self.stop.is_requested()
    }

    /// Several workers stop after the same step, which they agree on when they sum its gradients.
    fn decides_alone(&self) -> bool {
        self.workers.count() == 1
    }

    /// Runs the micro-batches of the next step forward and backward and clips the gradients; returns their norm before
    /// that. Refuses a loss or a norm that is not finite, and parameters that no gradient reached.
    pub(crate) fn gradients(
        &mut self,
        batches: &mut Epoch<'_, T::Batch>,
        learning_rate: f64,
    ) -> Result<(Accumulated, f64)> {
        self.session.step_started = Instant::now();
        let done = self.state.global_step;
        let count = self.plan.batches_of_step(done);
        let first_sample = (self.workers.rank() as u64) << 32;
        let start = StepContext { seed: self.arguments.seed, step: done as u64, first_sample };
        let votes = Votes {
            stop: self.stop.is_requested(),
            out_of_time: self.arguments.max_seconds.is_some_and(|max| self.seconds() >= max),
        };
        let cut = Cut { count, fuse: self.arguments.fused_micro_batches };
        let mut sum =
            accumulate(self.task, &self.parameters, batches, cut, start, self.workers.as_ref(), votes)?;
        if !self.decides_alone() {
            self.session.votes = sum.votes;
        }

        if let Some(NotFinite { quantity, value, batches }) = sum.not_finite {
            return Err(self.non_finite(quantity, value, learning_rate, batches));
        }
        if !sum.loss.sum.is_finite() {
            let quantity = "loss of another worker".to_owned();
            return Err(self.non_finite(quantity, sum.loss.sum, learning_rate, Vec::new()));
        }
        GradientAudit::require_gradients(done + 1, &sum.gradients, &self.parameters)?;
        let grad_norm = self.clip(&mut sum, learning_rate)?;
        Ok((sum, grad_norm))
    }

    fn clip(&mut self, sum: &mut Accumulated, learning_rate: f64) -> Result<f64> {
        let norms = sum.gradients.norms()?;
        let grad_norm = norms.global();
        if !grad_norm.is_finite() {
            let batches = sum.batches.clone();
            return Err(self.non_finite("gradient norm".to_owned(), grad_norm, learning_rate, batches));
        }
        let names = self.audit.observe(&norms, learning_rate);
        if !names.is_empty() {
            self.emit(Event::Warning(Warning::ZeroGradients { names }))?;
        }
        sum.gradients.clip(grad_norm, self.arguments.max_grad_norm)?;
        Ok(grad_norm)
    }

    /// Passes over a step that is not finite where that is allowed; hands back every other error.
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

    /// Counts a step that was made, and logs it.
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

    /// Evaluates; returns whether this is the best so far.
    pub(crate) fn evaluate(&mut self) -> Result<bool> {
        let Some(source) = self.evaluation else { return Ok(false) };
        let (epoch, step) = (self.state.epoch, self.state.global_step);
        self.emit(Event::EvaluationStarted { global_step: step, batches: source.batches_per_epoch() })?;
        let evaluation = evaluate(self.task, source)?;
        let values = evaluation.measured.values();
        let others = values.iter().filter(|(metric, _)| metric.name != Metric::LOSS.name);
        let metrics: BTreeMap<_, _> =
            others.map(|(metric, value)| (format!("eval_{}", metric.name), *value)).collect();
        self.log(LogEntry::Evaluation {
            eval_loss: evaluation.loss.mean(),
            eval_runtime: evaluation.seconds,
            eval_samples_per_second: evaluation.samples as f64 / evaluation.seconds,
            eval_steps_per_second: evaluation.batches as f64 / evaluation.seconds,
            metrics,
            epoch,
            step,
        })?;
        let improved = self.compare_with_best(&values)?;
        self.write_state()?;
        Ok(improved)
    }

    /// Takes note of what an evaluation measured; returns whether it is the best so far.
    fn compare_with_best(&mut self, values: &[(Metric, f64)]) -> Result<bool> {
        let step = self.state.global_step;
        let value_of = |wanted: Metric| {
            let value = values.iter().find(|(metric, _)| metric.name == wanted.name);
            value.map_or(f64::NAN, |(_, value)| *value)
        };
        let value = value_of(self.best_metric);
        // Where the loss is not a number, what else is measured says nothing.
        let mut metrics = [Metric::LOSS, self.best_metric].into_iter();
        let improvement = match metrics.find(|metric| !value_of(*metric).is_finite()) {
            Some(Metric { name: metric, .. }) => {
                self.emit(Event::Warning(Warning::EvaluationNotFinite { global_step: step, metric }))?;
                Some(f64::NAN)
            }
            None => self.state.best_metric.map(|best| self.best_metric.improvement(value, best)),
        };
        self.progress.without_improvement =
            self.early_stopping.count(self.progress.without_improvement, improvement);
        let improved = improvement.is_none_or(|improvement| improvement > 0.0);
        if improved {
            self.state.best_metric = Some(value);
            self.state.best_global_step = Some(step);
            self.state.best_model_checkpoint = None;
        }
        Ok(improved)
    }

    /// Whether an evaluation calls for a checkpoint of its own.
    pub(crate) fn keeps_best(&self, improved: bool) -> bool {
        improved && self.arguments.load_best_model_at_end
    }

    pub(crate) fn log(&mut self, entry: LogEntry) -> Result<()> {
        self.state.log_history.push(entry.clone());
        self.emit(Event::Log(entry))
    }

    pub(crate) fn emit(&mut self, event: Event) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.event(&event)).map_err(|source| Error::Sink { source })
    }

    /// The newest checkpoint of this run, or that of another directory which it goes on from.
    pub(crate) fn last_good(&self) -> Option<PathBuf> {
        let own = self.progress.saved.last().map(|step| self.store.path(*step));
        own.or_else(|| self.resumed_from.clone())
    }

    fn non_finite(&self, quantity: String, value: f64, learning_rate: f64, batches: Vec<String>) -> Error {
        let step = self.state.global_step + 1;
        Error::NonFinite { step, quantity, value, learning_rate, batches, checkpoint: self.last_good() }
    }
}

/// What this process has done, for speeds.
pub(crate) struct Session {
    started: Instant,
    step_started: Instant,
    seconds_before: f64,
    first_step: usize,
    samples: usize,
    /// Samples, targets and seconds since the last report.
    recent: (usize, usize, f64),
    votes: Votes,
}

impl Session {
    /// A session that begins now, after `first_step` steps that took `seconds_before`.
    pub(crate) fn begin(first_step: usize, seconds_before: f64) -> Self {
        let (started, step_started) = (Instant::now(), Instant::now());
        let votes = Votes::default();
        Self { started, step_started, seconds_before, first_step, samples: 0, recent: (0, 0, 0.0), votes }
    }

    fn add(&mut self, samples: usize, targets: usize, seconds: f64) {
        self.samples += samples;
        self.recent.0 += samples;
        self.recent.1 += targets;
        self.recent.2 += seconds;
    }

    fn throughput(&mut self, global_step: usize) -> Throughput {
        let (samples, targets, seconds) = std::mem::take(&mut self.recent);
        Throughput {
            global_step,
            samples_per_second: samples as f64 / seconds,
            tokens_per_second: targets as f64 / seconds,
            memory: resident_bytes(),
        }
    }

    /// Seconds, steps and samples.
    pub(crate) fn totals(&self, global_step: usize) -> (f64, usize, usize) {
        (self.started.elapsed().as_secs_f64(), global_step - self.first_step, self.samples)
    }
}
