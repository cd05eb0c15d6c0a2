//! Faults are found early, described clearly, and lose nothing.

mod arguments;
mod data;
mod optimizers;
mod saving;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{Batch, Mlp, Rows, arguments, message, random_rows, recorder, values};
use candle_core::{DType, Device, Tensor, Var};
use trainer_core::{
    AdamW, BatchSource, Batches, BoxError, Error, Event, Gradients, IntervalStrategy, LossSum, LossTotal,
    OnNan, Optimizer, ParameterGroup, Parameters, Resume, SchedulerOptions, SchedulerType, Sgd, StepContext,
    Task, Trainer, TrainingArguments, Warning,
};

fn rows(count: usize) -> Rows {
    Rows { rows: random_rows(1, count), batch_size: 2, shuffle: None }
}

fn fit(arguments: TrainingArguments, mlp: &Mlp, train: &Rows) -> Result<(), Error> {
    let evaluation = rows(4);
    Trainer::new(arguments, mlp.parameters())?.fit(mlp, train, Some(&evaluation)).map(|_| ())
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    NanLoss,
    InfiniteGradient,
    MissingGradients,
    /// The losses of all micro-batches are NaN, and few parameters have a gradient.
    NanWithoutGradients,
    NotAScalar,
    TaskError,
    EvaluationError,
    NanEvaluation,
    SaveError,
}

/// An `Mlp` with a fault in one step.
struct Faulty {
    mlp: Mlp,
    fault: Fault,
    /// The step with the fault, from 0.
    step: u64,
}

impl Task for Faulty {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let LossSum { sum, targets } = self.mlp.train_loss(batch, context)?;
        // The second micro-batch of the step.
        let in_all = matches!(self.fault, Fault::MissingGradients | Fault::NanWithoutGradients);
        if context.step != self.step || context.first_sample != 2 && !in_all {
            return Ok(LossSum { sum, targets });
        }
        let sum = match self.fault {
            Fault::NanLoss => (sum * f64::NAN)?,
            // A square root at 0: its derivative is infinite, its value is not.
            Fault::InfiniteGradient => {
                let weight = self.mlp.variables["l2.bias"].as_tensor();
                (sum + (weight - weight.detach())?.sqr()?.sum_all()?.sqrt()?)?
            }
            Fault::MissingGradients => {
                let bias = self.mlp.variables["l2.bias"].as_tensor();
                bias.sqr()?.sum_all()?
            }
            Fault::NanWithoutGradients => {
                let bias = self.mlp.variables["l2.bias"].as_tensor();
                (bias.sqr()?.sum_all()? * f64::NAN)?
            }
            Fault::NotAScalar => sum.reshape(1)?,
            Fault::TaskError => return Err("the task gave up".into()),
            _ => sum,
        };
        Ok(LossSum { sum, targets })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        match self.fault {
            Fault::EvaluationError => Err("no evaluation today".into()),
            Fault::NanEvaluation => Ok(LossTotal { sum: f64::NAN, targets: 1 }),
            _ => self.mlp.eval_loss(batch),
        }
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.mlp.num_samples(batch)
    }

    fn describe(&self, batch: &Batch) -> String {
        self.mlp.describe(batch)
    }

    fn save_model(&self, _directory: &Path) -> Result<(), BoxError> {
        if self.fault == Fault::SaveError { Err("the adapter cannot be saved".into()) } else { Ok(()) }
    }
}

/// Trains with a fault in step 4 of 6, with 2 steps per epoch. Returns the error, the events and the output directory.
fn with_fault(fault: Fault) -> (String, Vec<Event>, tempfile::TempDir) {
    with_fault_and(fault, |_| {})
}

fn with_fault_and(
    fault: Fault,
    change: impl FnOnce(&mut TrainingArguments),
) -> (String, Vec<Event>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let task = Faulty { mlp: Mlp::new(5), fault, step: 3 };
    let (sink, events) = recorder();
    let mut arguments = arguments(directory.path());
    change(&mut arguments);
    let trainer = Trainer::new(arguments, task.mlp.parameters()).unwrap().sink(sink);
    let outcome = trainer.fit(&task, &rows(16), Some(&rows(4)));
    let message = outcome.map_or_else(|error| message(&error), |_| "finished".to_owned());
    let events = events.lock().unwrap().clone();
    (message, events, directory)
}

fn steps(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Step(_))).count()
}
