use std::path::PathBuf;
use std::sync::Arc;

use crate::accumulate::StepMemory;
use crate::audit::GradientAudit;
use crate::checkpoint::CheckpointStore;
use crate::early_stopping::EarlyStopping;
use crate::micro_batches::ranges;
use crate::passes::Totals;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::session::{Session, Votes};
use crate::workers::gather_json;
use crate::{
    BatchSource, Error, Event, EventSink, LearningRateSchedule, LogEntry, Metric, Optimizer, Parameters,
    Result, StepReport, StopSignal, Task, TrainerState, TrainingArguments, Workers,
};

/// A run in progress: its parts and its state. This file has the record of its steps; `step.rs`, `best.rs`, `saving.rs`,
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

    pub(crate) fn count_step(&mut self) {
        self.state.global_step += 1;
        self.state.epoch = self.plan.epochs_after(self.state.global_step);
    }

    /// Counts and logs a completed step.
    pub(crate) fn record(&mut self, sum: &Totals, grad_norm: f64, learning_rate: f64) -> Result<()> {
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
}
