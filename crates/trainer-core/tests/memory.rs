//! Memory and time of the engine itself. A test binary of its own, so that no other test uses memory in the process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stderr, reason = "measurements and counts are for people")]
#![allow(dead_code, reason = "the engine's other tests use more of what they share")]

#[path = "engine/common.rs"]
mod common;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::{Device, Var};
use common::{Mlp, Rows, random_rows};
use trainer_core::{
    BoxError, Event, IntervalStrategy, LossSum, LossTotal, Parameters, StepContext, Task, Trainer,
    TrainingArguments, resident_bytes,
};

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Two thousand steps with an evaluation and a log entry every forty.
#[test]
fn memory_stays_flat() {
    let Some(_) = resident_bytes() else { return };
    let _alone = ALONE.lock().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        max_steps: Some(2000),
        eval_strategy: IntervalStrategy::Steps,
        eval_steps: 40,
        logging_steps: 40,
        save_strategy: IntervalStrategy::No,
        load_best_model_at_end: false,
        ..common::arguments(directory.path())
    };
    let measured = Arc::new(Mutex::new(Vec::new()));
    let kept = measured.clone();
    let measure = move |event: &Event| -> Result<(), BoxError> {
        if let Event::Step(report) = event
            && report.global_step.is_multiple_of(250)
        {
            kept.lock().unwrap().push(resident_bytes().unwrap_or_default());
        }
        Ok(())
    };
    let mlp = Mlp::with_dropout(5, 0.4);
    let rows = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(measure);
    let _finished = trainer.fit(&mlp, &rows, Some(&rows)).unwrap();
    let measured = measured.lock().unwrap();
    let (first, last) = (measured[1] as f64, measured[7] as f64);
    assert!(last <= 1.02 * first, "{measured:?}");
}

/// A task with as many parameters as git-base's adapters and almost no work of its own.
struct Adapters {
    parameters: Vec<Var>,
}

impl Task for Adapters {
    type Batch = usize;

    fn train_loss(&self, _: &usize, _: &StepContext) -> Result<LossSum, BoxError> {
        let mut sum = self.parameters[0].as_tensor().sum_all()?;
        for parameter in &self.parameters[1..] {
            sum = (sum + parameter.as_tensor().sum_all()?)?;
        }
        Ok(LossSum { sum, targets: 1 })
    }

    fn eval_loss(&self, _: &usize) -> Result<LossTotal, BoxError> {
        Ok(LossTotal { sum: 0.0, targets: 1 })
    }

    fn num_samples(&self, _: &usize) -> usize {
        1
    }
}

/// Prints the engine's share of a step: everything but the loss and its backward pass.
#[test]
#[ignore = "a measurement, not a check"]
fn overhead() {
    let _alone = ALONE.lock().unwrap();
    let directory = tempfile::tempdir().unwrap();
    // The recipe's adapters: rank 16 on six layers of four square linear layers and two that are four times as wide.
    let shapes = [(768, 768), (768, 768), (768, 768), (768, 768), (768, 3072), (3072, 768)];
    let variable = |shape: (usize, usize)| Var::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let layers = (0..6).flat_map(|_| shapes);
    let parameters: Vec<Var> =
        layers.flat_map(|(inputs, outputs)| [variable((16, inputs)), variable((outputs, 16))]).collect();
    let named = parameters.iter().enumerate().map(|(index, var)| (format!("{index:02}"), var.clone()));
    let named = Parameters::new(named).unwrap();
    let count = named.element_count();
    let task = Adapters { parameters };

    let context = StepContext::default();
    let started = Instant::now();
    for _ in 0..4 * STEPS {
        task.train_loss(&0, &context).unwrap().sum.backward().unwrap();
    }
    let bare = started.elapsed().as_secs_f64();

    // A checkpoint and an evaluation every 70 steps, as in the recipe.
    let arguments = TrainingArguments { max_steps: Some(STEPS), ..common::arguments(directory.path()) };
    let batches: Vec<usize> = (0..280).collect();
    let started = Instant::now();
    let trainer = Trainer::new(arguments, named).unwrap();
    let _finished = trainer.fit(&task, &batches, Some(&vec![0])).unwrap();
    let seconds = started.elapsed().as_secs_f64() - bare;
    eprintln!("{:.2} ms a step for {count} parameters in 4 micro-batches", 1000.0 * seconds / STEPS as f64);
}

const STEPS: usize = 210;
