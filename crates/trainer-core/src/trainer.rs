use std::path::PathBuf;

use crate::data::Epoch;
use crate::plan::Plan;
use crate::run::Run;
use crate::{
    BatchSource, EventSink, Identity, Parameters, Result, Resume, SingleProcess, StopSignal, Task,
    TrainerState, TrainingArguments, Workers,
};

/// Trains the parameters of a task.
///
/// The crate's documentation has a complete example.
pub struct Trainer {
    pub(crate) arguments: TrainingArguments,
    pub(crate) parameters: Parameters,
    pub(crate) sinks: Vec<Box<dyn EventSink>>,
    pub(crate) stop: StopSignal,
    pub(crate) resume: Option<Resume>,
    pub(crate) identity: Identity,
    pub(crate) workers: Box<dyn Workers>,
}

impl Trainer {
    /// A trainer of `parameters`.
    ///
    /// # Errors
    /// [`Error::Arguments`](crate::Error::Arguments) if the arguments make no sense.
    pub fn new(arguments: TrainingArguments, parameters: Parameters) -> Result<Self> {
        arguments.validate()?;
        Ok(Self {
            arguments,
            parameters,
            sinks: Vec::new(),
            stop: StopSignal::new(),
            resume: None,
            identity: Identity::new(),
            workers: Box::new(SingleProcess),
        })
    }

    /// Sends the events of the run to one more sink.
    #[must_use]
    pub fn sink(mut self, sink: impl EventSink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Stops after the step in which this signal is raised.
    #[must_use]
    pub fn stop_signal(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Continues an interrupted run instead of beginning one, exactly as it would have continued: the same numbers to
    /// the last bit on the CPU with the same number of threads. A run that is not the same is refused: one of another
    /// [`identity`](Self::identity), optimizer, seed or number of batches.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = Some(resume);
        self
    }

    /// Says what the run is, beyond its arguments: checkpoints keep it, and only a run of the same identity can be resumed
    /// from them. Default: nothing.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Trains together with others. Default: alone.
    #[must_use]
    pub fn workers(mut self, workers: impl Workers + 'static) -> Self {
        self.workers = Box::new(workers);
        self
    }

    /// Trains, and leaves the parameters as they are after the last step, or as they were at the best evaluation where [`TrainingArguments::load_best_model_at_end`] is set.
    ///
    /// Before the first step everything that can fail later is tried: the output directory is written to, one batch
    /// is evaluated, and a checkpoint is saved and thrown away.
    ///
    /// # Errors
    /// All that [`Error`](crate::Error) lists. A step that fails leaves parameters and checkpoints as they were.
    pub fn fit<T: Task>(
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
            let mut batches =
                Epoch::new(train, "training", plan.epoch(steps_made), plan.first_batch(steps_made));

            for step in plan.rest_of_epoch(steps_made) {
                let learning_rate = run.schedule.learning_rate(step);
                match run.gradients(&mut batches, learning_rate) {
                    Ok((sum, grad_norm)) => {
                        run.optimizer.step(&run.parameters, &sum.gradients, learning_rate)?;
                        run.record(&sum, grad_norm, learning_rate)?;
                    }
                    Err(error) => run.skip(error)?,
                }

                let last = step + 1 == plan.max_steps || run.out_of_time();
                let evaluates = plan.evaluates_after(step + 1, last);
                let improved = evaluates && run.evaluate()?;
                // The evaluation takes time too. A run that was not evaluated goes on for one more step, to end with one.
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

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Outcome {
    /// The run is over: all steps were made, its time was up, or evaluations had stopped getting better.
    Finished {
        /// The record of the run.
        state: TrainerState,
    },
    /// The run stopped on request. Training with [`Trainer::resume`] continues it.
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
