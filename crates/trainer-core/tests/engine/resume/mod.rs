//! A resumed run equals the run that was never interrupted.

mod best;
mod damage;
mod exact;
mod identity;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{self, Mlp, Rows, contrary, random_rows, recorder, stop_in_step, untimed};
use serde_json::Value;
use trainer_core::{
    ArgumentChange, BoxError, Error, Event, Identity, IntervalStrategy, LossSum, LossTotal, OptimizerType,
    Outcome, Result, Resume, SavedCheckpoint, StepContext, Task, Trainer, TrainingArguments, Warning,
};

/// Eleven batches an epoch make three steps of four, the last one short; three epochs make nine.
fn data() -> (Rows, Rows) {
    let train = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    (train, Rows { rows: random_rows(2, 7), batch_size: 4, shuffle: None })
}

fn model() -> Mlp {
    Mlp::with_dropout(5, 0.4)
}

struct Trained {
    outcome: Outcome,
    mlp: Mlp,
    events: Vec<Event>,
}

impl Trained {
    fn bits(&self) -> BTreeMap<String, Vec<u32>> {
        self.mlp.bits()
    }

    fn warnings(&self) -> Vec<&Warning> {
        let warnings = self.events.iter().filter_map(|event| match event {
            Event::Warning(warning) => Some(warning),
            _ => None,
        });
        warnings.collect()
    }
}

/// Ends with the last parameters, so that they depend on the whole run.
fn arguments(output_dir: &Path) -> TrainingArguments {
    TrainingArguments { load_best_model_at_end: false, ..common::arguments(output_dir) }
}

fn train(arguments: &TrainingArguments, resume: Option<Resume>, stop_in: Option<usize>) -> Result<Trained> {
    train_on(data(), arguments, resume, stop_in)
}

fn train_on(
    data: (Rows, Rows),
    arguments: &TrainingArguments,
    resume: Option<Resume>,
    stop_in: Option<usize>,
) -> Result<Trained> {
    let mlp = model();
    let (outcome, events) = train_task(&mlp, &mlp, data, arguments, resume, stop_in)?;
    Ok(Trained { outcome, mlp, events })
}

/// Trains the network of a task.
fn train_task(
    task: &impl Task<Batch = common::Batch>,
    mlp: &Mlp,
    (train, evaluation): (Rows, Rows),
    arguments: &TrainingArguments,
    resume: Option<Resume>,
    stop_in: Option<usize>,
) -> Result<(Outcome, Vec<Event>)> {
    let (sink, events) = recorder();
    let (stopper, stop) = stop_in_step(stop_in.unwrap_or(usize::MAX));
    let mut trainer =
        Trainer::new(arguments.clone(), mlp.parameters())?.sink(sink).sink(stopper).stop_signal(stop);
    if let Some(resume) = resume {
        trainer = trainer.resume(resume);
    }
    let outcome = trainer.fit(task, &train, Some(&evaluation))?;
    let events = events.lock().unwrap().clone();
    Ok((outcome, events))
}

fn file(directory: &Path, step: usize, name: &str) -> Vec<u8> {
    fs::read(directory.join(format!("checkpoint-{step}")).join(name)).unwrap()
}

fn truncate(checkpoint: &Path) {
    let path = checkpoint.join("optimizer.safetensors");
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() / 2]).unwrap();
}

fn flip_a_bit(checkpoint: &Path) {
    let path = checkpoint.join("parameters.safetensors");
    let mut content = fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&path, content).unwrap();
}

fn unfinish(checkpoint: &Path) {
    fs::remove_file(checkpoint.join("complete.json")).unwrap();
}
