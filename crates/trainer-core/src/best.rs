use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::evaluation::evaluate_together;
use crate::run::Run;
use crate::workers::{share_json, share_numbers};
use crate::{Event, LogEntry, Metric, Result, Task, Warning};

/// Evaluation during training, and the best parameters.
impl<T: Task> Run<'_, T> {
    /// Evaluates. Returns whether the evaluation is the best so far.
    pub(crate) fn evaluate(&mut self) -> Result<bool> {
        let Some(source) = self.evaluation else { return Ok(false) };
        let (epoch, step) = (self.state.epoch, self.state.global_step);
        self.emit(Event::EvaluationStarted { global_step: step, batches: source.batches_per_epoch() })?;
        let evaluation = evaluate_together(self.task, source, self.workers.as_ref())?;
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

    /// Records an evaluation. Returns whether it is the best so far.
    fn compare_with_best(&mut self, values: &[(Metric, f64)]) -> Result<bool> {
        let step = self.state.global_step;
        let value_of = |wanted: &Metric| {
            let value = values.iter().find(|(metric, _)| metric.name == wanted.name);
            value.map_or(f64::NAN, |(_, value)| *value)
        };
        let value = value_of(&self.best_metric);
        self.schedule.evaluated(&self.best_metric, value);
        // If the loss is not finite, the other metrics are meaningless.
        let decisive = [Metric::LOSS, self.best_metric.clone()];
        let not_finite = decisive.into_iter().find(|metric| !value_of(metric).is_finite());
        let improvement = match not_finite {
            Some(metric) => {
                let metric = metric.name.into_owned();
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

    /// Whether an evaluation needs a checkpoint, whatever the save strategy.
    pub(crate) fn keeps_best(&self, improved: bool) -> bool {
        improved && self.arguments.load_best_model_at_end
    }

    /// Loads the best parameters. If their checkpoint has been damaged, keeps the last ones, which may be saved nowhere else.
    pub(crate) fn load_best(&mut self, path: PathBuf, value: f64) -> Result<()> {
        // Only worker 0 reads the checkpoint.
        let damage = if self.leads() { checkpoint::verify_best(&path, &self.state).err() } else { None };
        if let Some(reason) = share_json(self.workers.as_ref(), &damage)? {
            self.state.best_model_checkpoint = None;
            return self.emit(Event::Warning(Warning::BestNotLoaded { path, reason }));
        }
        if self.leads() {
            self.parameters.load(&path.join(checkpoint::PARAMETERS))?;
        }
        share_numbers(self.workers.as_ref(), &self.parameters)?;
        self.emit(Event::BestLoaded { path, metric: self.best_metric.name.to_string(), value })
    }

    /// On resume, locates the checkpoint of the best evaluation: `recorded` when the checkpoint `resumed` was
    /// saved, and selected by the metric `chosen_by`. Discards an evaluation that cannot be the best of the
    /// resumed run.
    pub(crate) fn restore_best(
        &mut self,
        resumed: &Path,
        recorded: Option<PathBuf>,
        chosen_by: &str,
    ) -> Result<()> {
        let now = self.arguments.best_metric_name();
        let evaluated = self.state.best_metric.is_some() || self.progress.without_improvement > 0;
        if evaluated && chosen_by != now {
            let reason = format!("the best was selected by {chosen_by}, and is now selected by {now}");
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
        // The directory may have been moved since. If a run continues in another directory, a checkpoint of that step may
        // belong to either run; `verify_best` tells them apart.
        let sibling = resumed.with_file_name(format!("checkpoint-{step}"));
        for path in [&sibling, &recorded] {
            if checkpoint::verify_best(path, &self.state).is_ok() {
                self.state.best_model_checkpoint = Some(path.clone());
                return Ok(());
            }
        }
        self.forget_best(Warning::BestCheckpointMissing { path: recorded })
    }

    /// Discards all evaluations: the next one counts as the first.
    fn forget_best(&mut self, warning: Warning) -> Result<()> {
        (self.state.best_metric, self.state.best_global_step) = (None, None);
        self.progress.without_improvement = 0;
        self.emit(Event::Warning(warning))
    }
}
