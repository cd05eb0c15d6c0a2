use std::path::Path;
use std::time::Instant;

use crate::accumulate::{Accumulated, accumulate};
use crate::audit::GradientAudit;
use crate::checkpoint::{self, CheckpointStore, expired};
use crate::data::Epoch;
use crate::evaluation::evaluate;
use crate::files::write_json;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::{
    AdamW, BatchSource, Error, Event, EventSink, LogEntry, Outcome, Parameters, Result, Schedule,
    StepContext, StepReport, StopSignal, Task, TrainerState, TrainingArguments, Warning,
};

/// A run in progress: the parts of the training loop, and all the state that they share.
pub(crate) struct Run<'a, T: Task> {
    pub(crate) task: &'a T,
    pub(crate) evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
    pub(crate) arguments: TrainingArguments,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) parameters: Parameters,
    pub(crate) optimizer: AdamW,
    pub(crate) stop: StopSignal,
    pub(crate) audit: GradientAudit,
    pub(crate) store: CheckpointStore,
    pub(crate) sinks: Vec<Box<dyn EventSink>>,
    pub(crate) state: TrainerState,
    pub(crate) progress: Progress,
    pub(crate) session: Session,
}

impl<T: Task> Run<'_, T> {
    pub(crate) fn steps_made(&self) -> usize {
        self.state.global_step
    }

    /// Runs the micro-batches of the next step forward and backward, and refuses losses that are not finite and
    /// parameters that no gradient reached.
    pub(crate) fn forward_backward(
        &mut self,
        batches: &mut Epoch<'_, T::Batch>,
        learning_rate: f64,
    ) -> Result<Accumulated> {
        self.session.step_started = Instant::now();
        let done = self.state.global_step;
        let count = self.plan.batches_of_step(done);
        let start = StepContext { seed: self.arguments.seed, step: done as u64, first_sample: 0 };
        let sum = accumulate(self.task, &self.parameters, batches, count, start)?;

        if let Some((index, micro_batch)) =
            sum.micro_batches.iter().enumerate().find(|(_, micro_batch)| !micro_batch.loss.is_finite())
        {
            let quantity = format!("loss of micro-batch {} of {count}", index + 1);
            let batches = vec![micro_batch.description.clone()];
            return Err(self.non_finite(quantity, micro_batch.loss, learning_rate, batches));
        }
        self.audit.require_gradients(done + 1, &sum.gradients, &self.parameters)?;
        Ok(sum)
    }

    /// Clips the gradients and returns their norm before that. Refuses a norm that is not finite.
    pub(crate) fn clip(&mut self, sum: &mut Accumulated, learning_rate: f64) -> Result<f64> {
        let norms = sum.gradients.norms()?;
        let grad_norm = norms.global();
        if !grad_norm.is_finite() {
            let batches =
                sum.micro_batches.iter().map(|micro_batch| micro_batch.description.clone()).collect();
            return Err(self.non_finite("gradient norm".to_owned(), grad_norm, learning_rate, batches));
        }
        let names = self.audit.observe(&norms, learning_rate);
        if !names.is_empty() {
            self.emit(Event::Warning(Warning::ZeroGradients { names }))?;
        }
        sum.gradients.clip(grad_norm, self.arguments.max_grad_norm)?;
        Ok(grad_norm)
    }

    /// Counts a step that was made, and logs it.
    pub(crate) fn record(&mut self, sum: &Accumulated, grad_norm: f64, learning_rate: f64) -> Result<()> {
        self.state.global_step += 1;
        self.state.epoch = self.plan.epochs_after(self.state.global_step);
        self.progress.since_log += sum.loss;
        self.progress.total += sum.loss;
        self.session.samples += sum.samples;
        self.emit(Event::Step(StepReport {
            global_step: self.state.global_step,
            max_steps: self.plan.max_steps,
            epoch: self.state.epoch,
            loss: sum.loss.mean(),
            grad_norm,
            learning_rate,
            samples: sum.samples,
            seconds: self.session.step_started.elapsed().as_secs_f64(),
        }))?;
        if !self.plan.logs_after(self.state.global_step) {
            return Ok(());
        }
        let loss = std::mem::take(&mut self.progress.since_log).mean();
        let (epoch, step) = (self.state.epoch, self.state.global_step);
        self.log(LogEntry::Train { loss, grad_norm, learning_rate, epoch, step })
    }

    /// Evaluates; returns whether the loss is the lowest so far.
    pub(crate) fn evaluate(&mut self) -> Result<bool> {
        let Some(source) = self.evaluation else { return Ok(false) };
        let (epoch, step) = (self.state.epoch, self.state.global_step);
        self.emit(Event::EvaluationStarted { global_step: step, batches: source.batches_per_epoch() })?;
        let evaluation = evaluate(self.task, source)?;
        let eval_loss = evaluation.loss.mean();
        self.log(LogEntry::Evaluation {
            eval_loss,
            eval_runtime: evaluation.seconds,
            eval_samples_per_second: evaluation.samples as f64 / evaluation.seconds,
            eval_steps_per_second: evaluation.batches as f64 / evaluation.seconds,
            epoch,
            step,
        })?;
        if !eval_loss.is_finite() {
            self.emit(Event::Warning(Warning::EvaluationNotFinite { global_step: step }))?;
        }
        let improved = eval_loss.is_finite() && self.state.best_metric.is_none_or(|best| eval_loss < best);
        if improved {
            self.state.best_metric = Some(eval_loss);
            self.state.best_global_step = Some(step);
            self.state.best_model_checkpoint = None;
        }
        self.write_state()?;
        Ok(improved)
    }

    /// Whether an evaluation calls for a checkpoint of its own.
    pub(crate) fn keeps_best(&self, improved: bool) -> bool {
        improved && self.arguments.load_best_model_at_end
    }

    /// Saves a checkpoint and removes those that are no longer kept.
    pub(crate) fn save(&mut self) -> Result<()> {
        let step = self.state.global_step;
        let best = self.state.best_global_step == Some(step);
        if best {
            self.state.best_model_checkpoint = Some(self.store.path(step));
        }
        self.progress.saved.push(step);
        self.progress.stamp();
        let path = self.store.save(step, |directory| self.write_checkpoint(directory))?;
        self.write_state()?;
        self.emit(Event::CheckpointSaved { path, best })?;

        let (best, limit) = (self.state.best_global_step, self.arguments.save_total_limit);
        for step in expired(&self.progress.saved, best, limit) {
            let path = self.store.path(step);
            let event = match self.store.remove(step) {
                Ok(()) => Event::CheckpointRemoved { path },
                Err(error) => {
                    Event::Warning(Warning::CheckpointNotRemoved { path, reason: error.to_string() })
                }
            };
            self.progress.saved.retain(|saved| *saved != step);
            self.emit(event)?;
        }
        Ok(())
    }

    /// Ends a run that was asked to stop, after its checkpoint was saved.
    pub(crate) fn interrupt(mut self) -> Result<Outcome> {
        let global_step = self.state.global_step;
        let checkpoint = self.store.path(global_step);
        self.emit(Event::Interrupted { checkpoint: checkpoint.clone(), global_step })?;
        Ok(Outcome::Interrupted { state: self.state, checkpoint })
    }

    /// Ends a run that made all its steps.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        let seconds = self.session.started.elapsed().as_secs_f64();
        let steps = self.state.global_step - self.session.first_step;
        self.log(LogEntry::Summary {
            train_runtime: seconds,
            train_samples_per_second: self.session.samples as f64 / seconds,
            train_steps_per_second: steps as f64 / seconds,
            train_loss: self.progress.total.mean(),
            epoch: self.state.epoch,
            step: self.state.global_step,
        })?;
        let best = self.state.best_model_checkpoint.clone().zip(self.state.best_metric);
        if let Some((path, eval_loss)) = best.filter(|_| self.arguments.load_best_model_at_end) {
            self.parameters.load(&path.join(checkpoint::PARAMETERS))?;
            self.emit(Event::BestLoaded { path, eval_loss })?;
        }
        self.write_state()?;
        self.emit(Event::Finished { global_step: self.state.global_step })?;
        Ok(Outcome::Finished { state: self.state })
    }

    pub(crate) fn write_checkpoint(&self, directory: &Path) -> Result<()> {
        self.parameters.save(&directory.join(checkpoint::PARAMETERS))?;
        self.optimizer.save(&directory.join(checkpoint::OPTIMIZER))?;
        write_json(&directory.join(checkpoint::TRAINER_STATE), &self.state)?;
        write_json(&directory.join(checkpoint::ENGINE_STATE), &self.progress)?;
        let saved = self.task.save_model(directory);
        saved.map_err(|source| Error::SaveModel { path: directory.to_owned(), source })
    }

    fn write_state(&self) -> Result<()> {
        write_json(&self.store.output_dir().join(checkpoint::TRAINER_STATE), &self.state)
    }

    pub(crate) fn log(&mut self, entry: LogEntry) -> Result<()> {
        self.state.log_history.push(entry.clone());
        self.emit(Event::Log(entry))
    }

    pub(crate) fn emit(&mut self, event: Event) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.event(&event)).map_err(|source| Error::Sink { source })
    }

    fn non_finite(&self, quantity: String, value: f64, learning_rate: f64, batches: Vec<String>) -> Error {
        let step = self.state.global_step + 1;
        let checkpoint = self.progress.saved.last().map(|step| self.store.path(*step));
        Error::NonFinite { step, quantity, value, learning_rate, batches, checkpoint }
    }
}

/// What this process has done, for speeds.
pub(crate) struct Session {
    started: Instant,
    step_started: Instant,
    first_step: usize,
    samples: usize,
}

impl Session {
    /// A session that begins now, after `first_step` steps.
    pub(crate) fn begin(first_step: usize) -> Self {
        let now = Instant::now();
        Self { started: now, step_started: now, first_step, samples: 0 }
    }
}
