use std::collections::BTreeSet;

use crate::accumulate::StepMemory;
use crate::audit::GradientAudit;
use crate::checkpoint::CheckpointStore;
use crate::early_stopping::EarlyStopping;
use crate::evaluation::evaluate_batches;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::run::Run;
use crate::session::Session;
use crate::workers::gather_json;
use crate::{
    BatchSource, Error, Event, IntervalStrategy, Metric, OptimizerType, Result, Schedule, SingleProcess,
    Task, Trainer, TrainerState, TrainingArguments,
};

/// The state of a run before its first step.
fn first_state(arguments: &TrainingArguments, plan: &Plan) -> TrainerState {
    TrainerState {
        max_steps: plan.max_steps,
        num_train_epochs: plan.num_train_epochs,
        logging_steps: arguments.logging_steps,
        eval_steps: arguments.eval_steps,
        save_steps: arguments.save_steps,
        ..TrainerState::default()
    }
}

impl<'a, T: Task> Run<'a, T> {
    /// Prepares a new or resumed run, and tests everything that could otherwise fail after hours of training.
    pub(crate) fn begin(
        trainer: Trainer,
        task: &'a T,
        evaluation: Option<&'a dyn BatchSource<Batch = T::Batch>>,
        plan: Plan,
    ) -> Result<Self> {
        let Trainer {
            arguments,
            parameters,
            optimizer,
            schedule,
            sinks,
            stop,
            resume,
            identity,
            workers,
            device_graphs,
        } = trainer;
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
            early_stopping: EarlyStopping::new(&arguments),
            best_metric: Metric::LOSS,
            audit: GradientAudit::new(&parameters),
            store: match workers.rank() {
                0 => CheckpointStore::open(&arguments.output_dir)?,
                _ => CheckpointStore::of_another_worker(&arguments.output_dir),
            },
            workers,
            device_graphs,
            memory: StepMemory::default(),
            state: first_state(&arguments, &plan),
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
        run.require_one_run()?;
        let mut earlier = Vec::new();
        match run.find(resume)? {
            Some(found) => run.restore(found)?,
            None => {
                run.progress.initial = run.parameters.checksums()?;
                if run.leads() {
                    earlier = run.store.earlier(run.arguments.overwrite_output_dir)?;
                }
            }
        }
        run.rehearse()?;
        for checkpoint in earlier {
            run.store.remove(checkpoint.step)?;
        }
        run.share_state()?;
        run.require_equal_parameters()?;
        run.session = Session::begin(run.state.global_step, run.progress.seconds);
        run.vote()?;
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
            let values = evaluate_batches(self.task, source, 1, &SingleProcess)?.measured.values();
            let mut known = values.into_iter().map(|(metric, _)| metric);
            let names: Vec<String> = known.clone().map(|metric| metric.name.into_owned()).collect();
            let wanted = self.arguments.best_metric_name();
            self.best_metric = known.find(|metric| metric.name == wanted).ok_or_else(|| {
                Error::UnknownMetric { name: self.arguments.metric_for_best_model.clone(), known: names }
            })?;
        }
        if self.leads() { self.store.rehearse(|directory| self.write_checkpoint(directory)) } else { Ok(()) }
    }

    /// Checks that all workers were started with the same run.
    fn require_one_run(&self) -> Result<()> {
        let all: Vec<Progress> = gather_json(self.workers.as_ref(), &self.progress)?;
        let Some((first, others)) = all.split_first() else { return Ok(()) };
        for (rank, other) in (1..).zip(others) {
            let differences = first.differences(other).into_iter().map(|difference| {
                (difference.key, difference.saved.unwrap_or_default(), difference.now.unwrap_or_default())
            });
            let arguments = first.changes(&other.arguments).into_iter();
            let arguments = arguments.map(|change| (change.name, change.saved, change.now));
            let differences: BTreeSet<String> = differences
                .chain(arguments)
                .map(|(key, first, other)| {
                    format!("{key} is `{first}` on worker 0 and `{other}` on worker {rank}")
                })
                .collect();
            if !differences.is_empty() {
                return Err(Error::OtherRun { rank, differences: differences.into_iter().collect() });
            }
        }
        Ok(())
    }
}
