//! Every sample is trained on exactly once an epoch, wherever and however often the run is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::cell::RefCell;
use std::path::Path;

use candle_core::{DType, Device, Var};
use trainer_core::{
    BatchSource, Batches, BoxError, Error, IntervalStrategy, LossSum, LossTotal, Outcome, Parameters, Resume,
    StepContext, Task, Trainer, TrainingArguments, WindowedOrder, epoch_order,
};

const SAMPLES: usize = 211;
const BATCH: usize = 3;
const EPOCHS: usize = 6;
const SEED: u64 = 42;

/// Samples in 24 shards of different sizes, read through windows of four or so.
struct Shards(WindowedOrder);

impl Shards {
    fn new() -> Self {
        let sizes = (0..24).map(|shard| if shard < 23 { 4 + shard % 7 + shard % 3 } else { 0 });
        let mut left = SAMPLES;
        let shards = sizes.map(|size| {
            let size = if size == 0 { left } else { size.min(left) };
            left -= size;
            (size, size as u64)
        });
        Self(WindowedOrder::new(shards.collect::<Vec<_>>(), 40))
    }
}

impl BatchSource for Shards {
    type Batch = Vec<usize>;

    fn batches_per_epoch(&self) -> usize {
        self.0.len().div_ceil(BATCH)
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Vec<usize>> {
        let mut samples = self.0.epoch_from(SEED, epoch, first_batch * BATCH);
        Box::new(std::iter::from_fn(move || {
            let batch: Vec<usize> = samples.by_ref().take(BATCH).collect();
            (!batch.is_empty()).then_some(Ok(batch))
        }))
    }
}

/// A task that writes down which samples each step was given, and dies in a given step.
struct Ledger {
    weight: Var,
    /// The samples of each completed or begun step.
    steps: RefCell<Vec<Vec<usize>>>,
    dies_in: Option<u64>,
}

impl Task for Ledger {
    type Batch = Vec<usize>;

    fn train_loss(&self, batch: &Vec<usize>, context: &StepContext) -> Result<LossSum, BoxError> {
        if self.dies_in == Some(context.step) {
            return Err("killed".into());
        }
        let step = context.step as usize;
        let mut steps = self.steps.borrow_mut();
        if context.first_sample == 0 {
            // A resumed run makes the steps after its checkpoint again.
            steps.truncate(step);
            assert_eq!(steps.len(), step, "no step is passed over");
            steps.push(Vec::new());
        }
        steps[step].extend(batch);
        Ok(LossSum { sum: self.weight.sum_all()?, targets: batch.len() })
    }

    fn eval_loss(&self, _batch: &Vec<usize>) -> Result<LossTotal, BoxError> {
        Ok(LossTotal::default())
    }

    fn num_samples(&self, batch: &Vec<usize>) -> usize {
        batch.len()
    }
}

fn train(directory: &Path, task: &Ledger) -> Result<Outcome, Error> {
    let arguments = TrainingArguments {
        num_train_epochs: EPOCHS as f64,
        gradient_accumulation_steps: 4,
        save_strategy: IntervalStrategy::Steps,
        save_steps: 2,
        save_total_limit: Some(2),
        eval_strategy: IntervalStrategy::No,
        logging_steps: 1000,
        ..TrainingArguments::new(directory)
    };
    let parameters = Parameters::new([("weight".to_owned(), task.weight.clone())])?;
    Trainer::new(arguments, parameters)?.resume(Resume::NewestIfAny).fit(task, &Shards::new(), None)
}

#[test]
fn every_sample_is_seen_once_an_epoch_after_200_kills() {
    let steps_per_epoch = SAMPLES.div_ceil(BATCH).div_ceil(4);
    let steps = (EPOCHS * steps_per_epoch) as u64;
    let mut kills = 0;
    for round in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let weight = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let mut task = Ledger { weight, steps: RefCell::default(), dies_in: None };
        // Killed in random steps, each after the last.
        let mut deaths: Vec<usize> = epoch_order(round, 0, steps as usize).into_iter().take(40).collect();
        deaths.sort_unstable();
        for step in deaths {
            task.dies_in = Some(step as u64);
            let error = train(directory.path(), &task).unwrap_err();
            assert!(matches!(&error, Error::Task { step: at, .. } if *at == step + 1), "{error}");
            kills += 1;
        }
        task.dies_in = None;
        assert!(matches!(train(directory.path(), &task).unwrap(), Outcome::Finished { .. }));
        let ledger = task.steps.into_inner();
        assert_eq!(ledger.len() as u64, steps);
        for epoch in ledger.chunks(steps_per_epoch) {
            let mut seen = epoch.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..SAMPLES).collect::<Vec<_>>());
        }
        assert_ne!(ledger[..steps_per_epoch], ledger[steps_per_epoch..2 * steps_per_epoch]);
        if kills >= 200 {
            return;
        }
    }
}
