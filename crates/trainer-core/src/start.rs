use std::path::{Path, PathBuf};

use crate::audit::GradientAudit;
use crate::checkpoint::{self, CheckpointStore, Found};
use crate::evaluation::evaluate_batches;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::run::{Run, Session};
use crate::stopping::EarlyStopping;
use crate::{
    BatchSource, Error, Event, Identity, IntervalStrategy, Metric, OptimizerType, Result, Resume, Schedule,
    Task, Trainer, TrainerState, Warning,
};

impl<'a, T: Task> Run<'a, T> {
    /// Prepares a run, resumed or new, and tries out everything that could fail after hours of training.
    pub(crate) fn begin(
        trainer: Trainer,
        task: &'a T,
        evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
        plan: Plan,
    ) -> Result<Self> {
        let Trainer { arguments, parameters, sinks, stop, resume, identity, workers } = trainer;
        let strategy = arguments.eval_strategy;
        let evaluation = evaluation.filter(|_| strategy != IntervalStrategy::No);
        if strategy != IntervalStrategy::No && evaluation.is_none() {
            return Err(Error::NoEvaluationData { strategy });
        }
        let mut run = Self {
            task,
            evaluation,
            schedule: Schedule::of(&arguments, plan.max_steps),
            optimizer: OptimizerType::build(&arguments, &parameters)?,
            workers,
            early_stopping: EarlyStopping::new(&arguments),
            best_metric: Metric::LOSS,
            audit: GradientAudit::new(&parameters),
            store: CheckpointStore::open(&arguments.output_dir)?,
            state: TrainerState {
                max_steps: plan.max_steps,
                num_train_epochs: plan.num_train_epochs,
                logging_steps: arguments.logging_steps,
                eval_steps: arguments.eval_steps,
                save_steps: arguments.save_steps,
                ..Default::default()
            },
            progress: Progress::new(&arguments, &plan, identity),
            session: Session::begin(0, 0.0),
            resumed_from: None,
            arguments,
            plan,
            parameters,
            stop,
            sinks,
        };
        let mut earlier = Vec::new();
        match resume {
            Some(resume) => run.restore(&resume)?,
            None => {
                run.progress.initial = run.parameters.checksums()?;
                earlier = run.store.earlier(run.arguments.overwrite_output_dir)?;
            }
        }
        run.rehearse()?;
        for checkpoint in earlier {
            run.store.remove(checkpoint.step)?;
        }
        run.session = Session::begin(run.state.global_step, run.progress.seconds);
        run.emit(Event::Started {
            run: run.progress.run.clone(),
            trainable_parameters: run.parameters.element_count(),
            global_step: run.state.global_step,
            max_steps: run.plan.max_steps,
            steps_per_epoch: run.plan.steps_per_epoch,
        })?;
        Ok(run)
    }

    fn restore(&mut self, resume: &Resume) -> Result<()> {
        let mut found = checkpoint::find(&self.store, resume)?;
        for (path, reason) in std::mem::take(&mut found.skipped) {
            self.emit(Event::Warning(Warning::CheckpointSkipped { path, reason }))?;
        }
        self.require_same_run(&found)?;
        self.store.require_run(&found.progress.run)?;
        let chosen_by = found.progress.arguments.best_metric_name().to_owned();
        let changes = found.progress.changes(&self.arguments);
        if !changes.is_empty() {
            self.emit(Event::Warning(Warning::ArgumentsChanged { changes }))?;
        }

        self.parameters.load(&found.path.join(checkpoint::PARAMETERS))?;
        self.optimizer.load(&found.path.join(checkpoint::OPTIMIZER))?;
        let TrainerState {
            best_global_step,
            best_metric,
            best_model_checkpoint,
            epoch,
            global_step,
            log_history,
            ..
        } = found.state;
        self.state = TrainerState {
            best_global_step,
            best_metric,
            best_model_checkpoint: None,
            epoch,
            global_step,
            log_history,
            ..std::mem::take(&mut self.state)
        };
        let (arguments, identity) = (self.arguments.clone(), self.progress.identity.take());
        self.progress = Progress { arguments, identity, ..found.progress };
        self.progress.saved.retain(|step| self.store.path(*step).is_dir());
        if !is_same(&found.path, &self.store.path(global_step)) {
            // Another directory's run continues in this one, whose checkpoints are not its own.
            self.progress.saved.clear();
        }
        self.resumed_from = Some(found.path.clone());
        self.restore_best(&found.path, best_model_checkpoint, &chosen_by)?;
        self.emit(Event::Resumed { checkpoint: found.path, global_step })
    }

    /// Refuses a checkpoint of a run whose numbers would be others.
    fn require_same_run(&self, found: &Found) -> Result<()> {
        let (progress, none) = (&found.progress, Identity::new());
        let identity = self.progress.identity.as_ref().unwrap_or(&none);
        if progress.identity.is_none() && !identity.is_empty() {
            // To take it on trust would be to continue another run without a word.
            let reason = format!(
                "version {} saved it without saying on what it was trained, so that it cannot be known whether this is the \
                 same run",
                progress.version
            );
            return Err(Error::Checkpoint { path: found.path.clone(), reason });
        }
        let differences = progress.differences(&self.arguments, &self.plan, identity);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::AnotherRun { path: found.path.clone(), differences })
    }

    /// Finds the checkpoint of the best evaluation again, which was `recorded` when `resumed` was saved and was the best
    /// by the metric `chosen_by`. Forgets an evaluation that cannot be the best of the run as it goes on.
    fn restore_best(&mut self, resumed: &Path, recorded: Option<PathBuf>, chosen_by: &str) -> Result<()> {
        let now = self.arguments.best_metric_name();
        let evaluated = self.state.best_metric.is_some() || self.progress.without_improvement > 0;
        if evaluated && chosen_by != now {
            let reason = format!("the best was chosen by {chosen_by}, and now it is chosen by {now}");
            return self.forget_best(Warning::BestForgotten { reason });
        }
        let Some(step) = self.state.best_global_step else { return Ok(()) };
        let Some(recorded) = recorded else {
            if !self.arguments.load_best_model_at_end {
                return Ok(());
            }
            let reason = format!("the parameters of the best evaluation, after step {step}, were not saved");
            return self.forget_best(Warning::BestForgotten { reason });
        };
        // The directory may have been moved since. And where another directory's run continues in this one, a
        // checkpoint of that step may be of either.
        let sibling = resumed.with_file_name(format!("checkpoint-{step}"));
        for path in [&sibling, &recorded] {
            if checkpoint::verify_best(path, &self.state).is_ok() {
                self.state.best_model_checkpoint = Some(path.clone());
                return Ok(());
            }
        }
        self.forget_best(Warning::BestCheckpointMissing { path: recorded })
    }

    /// The next evaluation is the first that counts.
    fn forget_best(&mut self, warning: Warning) -> Result<()> {
        (self.state.best_metric, self.state.best_global_step) = (None, None);
        self.progress.without_improvement = 0;
        self.emit(Event::Warning(warning))
    }

    /// Evaluates one batch, looks for the metric that says which is the best, and saves a checkpoint that is thrown
    /// away: a run that is stopped saves one, whatever its arguments.
    fn rehearse(&mut self) -> Result<()> {
        if let Some(source) = self.evaluation {
            let values = evaluate_batches(self.task, source, 1)?.measured.values();
            let known = || values.iter().map(|(metric, _)| metric);
            let wanted = self.arguments.best_metric_name();
            self.best_metric =
                *known().find(|metric| metric.name == wanted).ok_or_else(|| Error::UnknownMetric {
                    name: self.arguments.metric_for_best_model.clone(),
                    known: known().map(|metric| metric.name.to_owned()).collect(),
                })?;
        }
        self.store.rehearse(|directory| self.write_checkpoint(directory))
    }
}

/// Whether two paths are of one thing that exists.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
