use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::data::Epoch;
use crate::plan::Plan;
use crate::run::Run;
use crate::text::with_causes;
use crate::{
    BatchSource, EventSink, Identity, LearningRateSchedule, Optimizer, Parameters, Result, Resume,
    SingleProcess, StopSignal, Task, TrainerState, TrainingArguments, Workers,
};

/// Trains the parameters of a task. The crate's documentation has a complete example.
pub struct Trainer {
    pub(crate) arguments: TrainingArguments,
    pub(crate) parameters: Parameters,
    pub(crate) optimizer: Option<Box<dyn Optimizer>>,
    pub(crate) schedule: Option<Box<dyn LearningRateSchedule>>,
    pub(crate) sinks: Vec<Box<dyn EventSink>>,
    pub(crate) stop: StopSignal,
    pub(crate) resume: Option<Resume>,
    pub(crate) identity: Identity,
    pub(crate) workers: Arc<dyn Workers>,
    pub(crate) device_graphs: bool,
}

impl Trainer {
    /// Creates a trainer for `parameters`.
    ///
    /// # Errors
    /// [`Error::Arguments`](crate::Error::Arguments) for invalid arguments.
    pub fn new(arguments: TrainingArguments, parameters: Parameters) -> Result<Self> {
        arguments.validate()?;
        Ok(Self {
            arguments,
            parameters,
            optimizer: None,
            schedule: None,
            sinks: Vec::new(),
            stop: StopSignal::new(),
            resume: None,
            identity: Identity::new(),
            workers: Arc::new(SingleProcess),
            device_graphs: true,
        })
    }

    /// Sets the optimizer, instead of the one that [`TrainingArguments::optim`] selects; the arguments' betas, weight decay
    /// and parameter groups then have no effect. It must have been created for the trainer's parameters.
    #[must_use]
    pub fn optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.optimizer = Some(Box::new(optimizer));
        self
    }

    /// Sets the learning-rate schedule, instead of the one that [`TrainingArguments::lr_scheduler_type`] selects; the
    /// arguments' learning rate and warm-up then have no effect.
    #[must_use]
    pub fn schedule(mut self, schedule: impl LearningRateSchedule + 'static) -> Self {
        self.schedule = Some(Box::new(schedule));
        self
    }

    /// Adds a sink, which receives the events of the run.
    #[must_use]
    pub fn sink(mut self, sink: impl EventSink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Sets the signal that stops the run after the current step.
    #[must_use]
    pub fn stop_signal(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Continues an earlier run instead of starting a new one. The result is bit-identical to that of an uninterrupted run,
    /// on the CPU with the same number of threads, with any number of [`workers`](Self::workers). [`fit`](Self::fit) returns
    /// [`Error::AnotherRun`](crate::Error::AnotherRun) if the [`identity`](Self::identity), the kind of optimizer or
    /// schedule, the seed, the gradient accumulation or the number of batches differs.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = Some(resume);
        self
    }

    /// Sets the identity of the run: everything besides the arguments that determines its numbers. Checkpoints store it, and
    /// only a run with the same identity can resume from them. Default: empty.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Makes this trainer one of several [`Workers`] that train together. Every worker needs a trainer with equal arguments,
    /// parameters and identity, and calls [`fit`](Self::fit) with equal data. Each emits the events of the run; a sink that
    /// writes files belongs to worker 0. Default: [`SingleProcess`].
    #[must_use]
    pub fn workers(mut self, workers: Arc<dyn Workers>) -> Self {
        self.workers = workers;
        self
    }

    /// Sets whether the optimizer may record its launches on a device as a graph, to replay them by one call of the driver. The bits are
    /// the same without. Default: `true`. At present, [`AdamW`](crate::AdamW) does so on NVIDIA GPUs, with the feature `fused-cuda`.
    #[must_use]
    pub fn device_graphs(mut self, device_graphs: bool) -> Self {
        self.device_graphs = device_graphs;
        self
    }

    /// Trains. Afterwards the parameters are those of the last step, or of the best evaluation if
    /// [`TrainingArguments::load_best_model_at_end`] is set.
    ///
    /// Everything that could fail later is tried before the first step: a write to the output directory, the evaluation of
    /// one batch, and a checkpoint, which is then deleted.
    ///
    /// # Errors
    /// Any [`Error`](enum@crate::Error). A step that fails leaves parameters and checkpoints unchanged. If one of several
    /// workers fails, the others return [`Error::Workers`](crate::Error::Workers), which names it.
    pub fn fit<T: Task>(
        self,
        task: &T,
        train: &dyn BatchSource<Batch = T::Batch>,
        evaluation: Option<&dyn BatchSource<Batch = T::Batch>>,
    ) -> Result<Outcome> {
        let workers = Arc::clone(&self.workers);
        self.train(task, train, evaluation).inspect_err(|error| workers.leave(&with_causes(error)))
    }

    fn train<T: Task>(
        self,
        task: &T,
        train: &dyn BatchSource<Batch = T::Batch>,
        evaluation: Option<&dyn BatchSource<Batch = T::Batch>>,
    ) -> Result<Outcome> {
        let plan = Plan::new(&self.arguments, train.batches_per_epoch())?;
        let mut run = Run::begin(self, task, evaluation, plan.clone())?;

        if run.is_over() {
            return run.finish();
        }
        loop {
            let steps_made = run.steps_made();
            let (epoch, first) = (plan.epoch(steps_made), plan.first_batch(steps_made));
            let mut batches = Epoch::selected(train, "training", epoch, first, run.own_batches());

            for step in plan.rest_of_epoch(steps_made) {
                let learning_rate = run.learning_rate()?;
                match run.take_step(&mut batches, learning_rate) {
                    Ok((sum, grad_norm)) => run.record(&sum, grad_norm, learning_rate)?,
                    Err(error) => run.skip(error)?,
                }

                run.vote()?;
                let last = step + 1 == plan.max_steps || run.out_of_time();
                let evaluates = plan.evaluates_after(step + 1, last);
                let improved = evaluates && run.evaluate()?;
                if evaluates {
                    run.vote()?;
                }
                // If time runs out between evaluations, one more step lets the run end evaluated.
                let over = last || run.has_converged() || evaluates && run.out_of_time();
                let stop = run.stop_requested() && !over;
                if plan.saves_after(step + 1, over) || run.keeps_best(improved) || stop {
                    run.save()?;
                }
                if stop {
                    return run.interrupt();
                }
                if over {
                    return run.finish();
                }
            }
        }
    }
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("arguments", &self.arguments)
            .field("parameters", &self.parameters)
            .field("optimizer", &self.optimizer)
            .field("resume", &self.resume)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Outcome {
    /// The run is complete: all steps were taken, its time was up, or evaluations no longer improved.
    Finished {
        /// The record of the run.
        state: TrainerState,
    },
    /// The run stopped on request. [`Trainer::resume`] continues it.
    Interrupted {
        /// The record of the run so far.
        state: TrainerState,
        /// The checkpoint that was saved.
        checkpoint: PathBuf,
    },
}

impl Outcome {
    /// The record of the run, however it ended.
    pub fn state(&self) -> &TrainerState {
        match self {
            Self::Finished { state } | Self::Interrupted { state, .. } => state,
        }
    }
}
