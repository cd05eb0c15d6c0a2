//! Parts that a caller provides.

mod data;
mod optimizer_and_schedule;

use crate::common::{
    self, Batch, Mlp, Row, Rows, batch, contrary, random_rows, recorder, stop_in_step, untimed, values,
};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder, VarMap};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use trainer_core::{
    AdamW, BatchSource, BoxError, ClippedStep, Direction, Error, Event, Gradients, InMemory,
    IntervalStrategy, LearningRateSchedule, LogEntry, LossSum, LossTotal, Measured, Metric, Optimizer,
    Outcome, Parameters, Ratio, Result, Resume, Schedule, SchedulerType, Sgd, StepContext, Task, Trainer,
    TrainingArguments, Unit, Warning, evaluate,
};

/// Three steps per epoch, nine in all. Every evaluation is worse than the one before.
fn data() -> (Rows, Rows) {
    let train = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    let evaluation = Rows { rows: contrary(&train.rows), batch_size: 4, shuffle: None };
    (train, evaluation)
}

fn arguments(output_dir: &Path) -> TrainingArguments {
    TrainingArguments { load_best_model_at_end: false, ..common::arguments(output_dir) }
}

fn trainer(output_dir: &Path, mlp: &Mlp) -> Trainer {
    Trainer::new(arguments(output_dir), mlp.parameters()).unwrap()
}

fn fit(trainer: Trainer, mlp: &Mlp, stop_in: Option<usize>) -> Result<Outcome> {
    let (stopper, stop) = stop_in_step(stop_in.unwrap_or(usize::MAX));
    let (train, evaluation) = data();
    trainer.sink(stopper).stop_signal(stop).fit(mlp, &train, Some(&evaluation))
}
