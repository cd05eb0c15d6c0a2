use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Found};
use crate::progress::{Progress, ScheduleState};
use crate::run::Run;
use crate::workers::share_json;
use crate::{Error, Event, Identity, Result, Resume, Task, TrainerState, Warning};

/// Resuming from a checkpoint.
impl<T: Task> Run<'_, T> {
    /// Finds the checkpoint to resume from; `None` for a new run. Worker 0 chooses it, and the others read the same.
    pub(crate) fn find(&mut self, resume: Option<Resume>) -> Result<Option<Found>> {
        let Some(resume) = resume else { return Ok(None) };
        let starts_anew =
            self.leads() && resume == Resume::NewestIfAny && self.store.checkpoints()?.is_empty();
        let found =
            if self.leads() && !starts_anew { Some(checkpoint::find(&self.store, &resume)?) } else { None };
        let path = found.as_ref().map(|found| found.path.clone());
        let path: Option<PathBuf> = share_json(self.workers.as_ref(), &path)?;
        match (found, path) {
            (None, Some(path)) => checkpoint::find(&self.store, &Resume::From(path)).map(Some),
            (found, _) => Ok(found),
        }
    }

    pub(crate) fn restore(&mut self, mut found: Found) -> Result<()> {
        for (path, reason) in std::mem::take(&mut found.skipped) {
            self.emit(Event::Warning(Warning::CheckpointSkipped { path, reason }))?;
        }
        self.require_same_run(&found)?;
        if self.leads() {
            self.store.require_run(&found.progress.run)?;
        }
        let chosen_by = found.progress.arguments.best_metric_name().to_owned();
        let changes = found.progress.changes(&self.arguments);
        if !changes.is_empty() {
            self.emit(Event::Warning(Warning::ArgumentsChanged { changes }))?;
        }

        let ScheduleState { state, .. } = &found.progress.schedule;
        self.schedule.set_state(state).map_err(|error| Error::Checkpoint {
            path: found.path.clone(),
            reason: format!("the schedule cannot restore its state: {error}"),
        })?;
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
        self.record_kinds();
        self.progress.saved.retain(|step| self.store.path(*step).is_dir());
        if !is_same(&found.path, &self.store.path(global_step)) {
            // The run moves to another directory. It must not delete the checkpoints in the old one.
            self.progress.saved.clear();
        }
        self.resumed_from = Some(found.path.clone());
        self.restore_best(&found.path, best_model_checkpoint, &chosen_by)?;
        self.emit(Event::Resumed { checkpoint: found.path, global_step })
    }

    /// Sends the state of worker 0 to all workers, because only worker 0 knows which files exist.
    pub(crate) fn share_state(&mut self) -> Result<()> {
        if self.workers.count() > 1 {
            (self.state, self.progress) =
                share_json(self.workers.as_ref(), &(self.state.clone(), self.progress.clone()))?;
        }
        Ok(())
    }

    /// Returns an error for a checkpoint of a run whose numbers would differ.
    fn require_same_run(&self, found: &Found) -> Result<()> {
        let saved = &found.progress;
        let has_identity = !self.progress.identity.as_ref().is_none_or(Identity::is_empty);
        if saved.identity.is_none() && has_identity {
            // Without the saved identity, a different run could be continued unnoticed.
            let reason = format!(
                "version {} saved it without the identity of its run, so it may not be of the same run",
                saved.version
            );
            return Err(Error::Checkpoint { path: found.path.clone(), reason });
        }
        let differences = saved.differences(&self.progress);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::AnotherRun { path: found.path.clone(), differences })
    }
}

/// Whether two paths are the same existing file or directory.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
