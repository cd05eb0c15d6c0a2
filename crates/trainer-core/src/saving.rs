use std::path::{Path, PathBuf};

use crate::checkpoint::{self, expired};
use crate::files::{sync_file, write_json};
use crate::progress::ScheduleState;
use crate::run::Run;
use crate::session::Totals;
use crate::text::with_causes;
use crate::workers::gather_json;
use crate::{Error, Event, LogEntry, Outcome, Result, Task, Warning};

/// Saving checkpoints, and the end of the run.
impl<T: Task> Run<'_, T> {
    /// Saves a checkpoint and deletes those beyond `save_total_limit`.
    pub(crate) fn save(&mut self) -> Result<()> {
        let step = self.state.global_step;
        let best = self.state.best_global_step == Some(step);
        if best {
            self.state.best_model_checkpoint = Some(self.store.path(step));
        }
        let before = self.last_good();
        self.progress.saved.push(step);
        self.progress.seconds = self.session.seconds();
        self.progress.stamp();
        self.record_kinds();
        self.require_equal_parameters()?;
        let path = self.store.path(step);
        let prepared = self.task.before_saving(step);
        let prepared = prepared.map_err(|source| Error::SaveModel { path: path.clone(), source });
        let saved = prepared.and_then(|()| match self.leads() {
            true => self.store.save(step, |directory| self.write_checkpoint(directory)).map(|_| ()),
            false => Ok(()),
        });
        saved.map_err(|error| Error::Save { step, source: Box::new(error), checkpoint: before })?;
        self.write_state()?;
        // The other workers wait until the checkpoint is complete.
        self.vote()?;
        self.emit(Event::CheckpointSaved { path, global_step: step, best })?;

        let (best, limit) = (self.state.best_global_step, self.arguments.save_total_limit);
        for step in expired(&self.progress.saved, best, limit) {
            let path = self.store.path(step);
            let removed = if self.leads() { self.store.remove(step) } else { Ok(()) };
            let event = match removed {
                Ok(()) => Event::CheckpointRemoved { path },
                Err(error) => {
                    Event::Warning(Warning::CheckpointNotRemoved { path, reason: with_causes(&error) })
                }
            };
            self.progress.saved.retain(|saved| *saved != step);
            self.emit(event)?;
        }
        Ok(())
    }

    /// Ends a run whose stop was requested, after its checkpoint was saved.
    pub(crate) fn interrupt(mut self) -> Result<Outcome> {
        let global_step = self.state.global_step;
        let checkpoint = self.store.path(global_step);
        self.sync_state()?;
        self.emit(Event::Interrupted { checkpoint: checkpoint.clone(), global_step })?;
        Ok(Outcome::Interrupted { state: self.state, checkpoint })
    }

    /// Ends a run that is complete.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        let global_step = self.state.global_step;
        if global_step < self.plan.max_steps {
            let reason = match self.arguments.early_stopping_patience {
                Some(patience) if self.has_converged() => {
                    format!("{} did not improve in {patience} evaluations", self.best_metric.name)
                }
                _ => "its time is up".to_owned(),
            };
            self.emit(Event::StoppedEarly { global_step, reason })?;
        }
        let Totals { seconds, steps, samples } = self.session.totals(global_step);
        self.log(LogEntry::Summary {
            train_runtime: seconds,
            train_samples_per_second: samples as f64 / seconds,
            train_steps_per_second: steps as f64 / seconds,
            train_loss: self.progress.total.mean(),
            epoch: self.state.epoch,
            step: global_step,
        })?;
        let best = self.state.best_model_checkpoint.clone().zip(self.state.best_metric);
        if let Some((path, value)) = best.filter(|_| self.arguments.load_best_model_at_end) {
            self.load_best(path, value)?;
        }
        self.warn_of_unchanged_parameters()?;
        self.write_state()?;
        self.sync_state()?;
        self.emit(Event::Finished { global_step })?;
        Ok(Outcome::Finished { state: self.state })
    }

    /// Records the kinds of optimizer and schedule, and the schedule's state, for the next checkpoint.
    pub(crate) fn record_kinds(&mut self) {
        self.progress.optimizer = Some(self.optimizer.name().to_owned());
        self.progress.schedule =
            ScheduleState { name: self.schedule.name().to_owned(), state: self.schedule.state() };
    }

    pub(crate) fn write_checkpoint(&self, directory: &Path) -> Result<()> {
        self.parameters.write(&directory.join(checkpoint::PARAMETERS))?;
        self.optimizer.save(&directory.join(checkpoint::OPTIMIZER))?;
        write_json(&directory.join(checkpoint::TRAINER_STATE), &self.state)?;
        write_json(&directory.join(checkpoint::ENGINE_STATE), &self.progress)?;
        let saved = self.task.save_model(directory);
        saved.map_err(|source| Error::SaveModel { path: directory.to_owned(), source })
    }

    /// Writes `trainer_state.json` to the output directory, without syncing it: checkpoints have their own.
    pub(crate) fn write_state(&self) -> Result<()> {
        if !self.leads() {
            return Ok(());
        }
        let written = write_json(&self.state_path(), &self.state);
        written.map_err(|error| Error::Save {
            step: self.state.global_step,
            source: Box::new(error),
            checkpoint: self.last_good(),
        })
    }

    fn sync_state(&self) -> Result<()> {
        if self.leads() { sync_file(&self.state_path()) } else { Ok(()) }
    }

    /// Checks that all workers have the same parameters, to the last bit.
    pub(crate) fn require_equal_parameters(&self) -> Result<()> {
        if self.workers.count() == 1 {
            return Ok(());
        }
        let all = gather_json(self.workers.as_ref(), &self.parameters.checksums()?)?;
        match all.iter().position(|checksums| *checksums != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::UnequalWorkers { step: self.state.global_step, rank }),
        }
    }

    fn state_path(&self) -> PathBuf {
        self.store.output_dir().join(checkpoint::TRAINER_STATE)
    }

    /// Warns of parameters that still have their initial values: they were not trained, even if the loss fell.
    fn warn_of_unchanged_parameters(&mut self) -> Result<()> {
        let now = self.parameters.checksums()?;
        let unchanged = now.iter().filter(|(name, sum)| self.progress.initial.get(*name) == Some(sum));
        let names: Vec<_> = unchanged.map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let all = names.len() == now.len();
        self.emit(Event::Warning(Warning::ParametersUnchanged { names, all }))
    }
}
