use crate::audit::GradientAudit;
use crate::checkpoint::CheckpointStore;
use crate::early_stopping::EarlyStopping;
use crate::evaluation::evaluate_batches;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::run::Run;
use crate::session::Session;
use crate::{
    BatchSource, Error, Event, IntervalStrategy, Metric, OptimizerType, Result, Resume, Schedule, Task,
    Trainer, TrainerState,
};

impl<'a, T: Task> Run<'a, T> {
    /// Prepares a new or resumed run, and tries everything that could otherwise fail after hours of training.
    pub(crate) fn begin(
        trainer: Trainer,
        task: &'a T,
        evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
        plan: Plan,
    ) -> Result<Self> {
        let Trainer { arguments, parameters, optimizer, schedule, sinks, stop, resume, identity, workers } =
            trainer;
        let strategy = arguments.eval_strategy;
        let evaluation = evaluation.filter(|_| strategy != IntervalStrategy::No);
        if strategy != IntervalStrategy::No && evaluation.is_none() {
            return Err(Error::NoEvaluationData { strategy });
        }
        let optimizer = optimizer.map_or_else(|| OptimizerType::build(&arguments, &parameters), Ok)?;
        let schedule =
            schedule.unwrap_or_else(|| Box::new(Schedule::from_arguments(&arguments, plan.max_steps)));
        let mut run = Self {
            task,
            evaluation,
            schedule,
            optimizer,
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
        run.record_kinds();
        let mut earlier = Vec::new();
        let starts_anew = resume == Some(Resume::NewestIfAny) && run.store.checkpoints()?.is_empty();
        match resume.filter(|_| !starts_anew) {
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

    /// A dry run: evaluates one batch, finds the metric that selects the best, and saves a checkpoint that is then deleted.
    /// It saves even if `save_strategy` is `no`, as a run that is stopped always saves.
    fn rehearse(&mut self) -> Result<()> {
        if let Some(source) = self.evaluation {
            let values = evaluate_batches(self.task, source, 1)?.measured.values();
            let mut known = values.into_iter().map(|(metric, _)| metric);
            let names: Vec<String> = known.clone().map(|metric| metric.name.into_owned()).collect();
            let wanted = self.arguments.best_metric_name();
            self.best_metric = known.find(|metric| metric.name == wanted).ok_or_else(|| {
                Error::UnknownMetric { name: self.arguments.metric_for_best_model.clone(), known: names }
            })?;
        }
        self.store.rehearse(|directory| self.write_checkpoint(directory))
    }
}
