//! The way a step is split into micro-batches must not matter.

use super::common::{Batch, Mlp, Row, Rows, arguments, batch, message, random_rows, values};
use std::cell::RefCell;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use proptest::prelude::*;
use trainer_core::{
    BatchSource, BoxError, Error, Gradients, IntervalStrategy, LogEntry, LossSum, LossTotal, OptimizerType,
    Parameters, StepContext, Task, Trainer, TrainerState, TrainingArguments,
};

/// Trains for one step per epoch on micro-batches of the given sizes. Returns the log and the parameters.
///
/// With SGD, whose update is proportional to the gradient. AdamW divides a gradient by its own size, which would amplify the
/// rounding error of a gradient near zero to a whole step.
fn train(rows: &[Row], sizes: &[usize], dropout: f32) -> (TrainerState, Vec<f32>) {
    let mlp = Mlp::with_dropout(5, dropout);
    let state = train_fused(&mlp, &mlp, rows, sizes, 1).unwrap();
    let parameters = mlp.variables.values().flat_map(|variable| values(variable)).collect();
    (state, parameters)
}

/// The same for any task that trains an `Mlp`, with up to `fuse` micro-batches per pass.
fn train_fused(
    task: &impl Task<Batch = Batch>,
    mlp: &Mlp,
    rows: &[Row],
    sizes: &[usize],
    fuse: usize,
) -> Result<TrainerState, Error> {
    let mut first = 0;
    let batches: Vec<Batch> = sizes
        .iter()
        .map(|size| {
            first += size;
            batch(rows, &(first - size..first).collect::<Vec<_>>())
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        gradient_accumulation_steps: sizes.len(),
        fused_micro_batches: fuse,
        optim: OptimizerType::Sgd,
        eval_strategy: IntervalStrategy::No,
        save_strategy: IntervalStrategy::No,
        load_best_model_at_end: false,
        ..arguments(directory.path())
    };
    let outcome = Trainer::new(arguments, mlp.parameters()).unwrap().fit(task, &batches, None)?;
    Ok(outcome.state().clone())
}

fn losses_and_norms(state: &TrainerState) -> Vec<f64> {
    let numbers = |entry: &LogEntry| match entry {
        LogEntry::Train { loss, grad_norm, .. } => vec![*loss, *grad_norm],
        _ => Vec::new(),
    };
    state.log_history.iter().flat_map(numbers).collect()
}

fn assert_same_training(rows: &[Row], whole: &[usize], split: &[usize], dropout: f32) {
    let (whole, split) = (train(rows, whole, dropout), train(rows, split, dropout));
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
    let (logged, expected) = (losses_and_norms(&split.0), losses_and_norms(&whole.0));
    assert_eq!(logged.len(), 6, "three steps");
    for (got, expected) in logged.into_iter().zip(expected) {
        assert!(close(got, expected), "logged {got}, expected {expected}");
    }
    for (got, expected) in split.1.into_iter().zip(whole.1) {
        assert!(close(got.into(), expected.into()), "parameter {got}, expected {expected}");
    }
}

#[test]
fn four_batches_of_two_give_the_step_of_one_batch_of_eight() {
    assert_same_training(&random_rows(1, 8), &[8], &[2, 2, 2, 2], 0.0);
}

#[test]
fn dropout_does_not_depend_on_the_micro_batches() {
    assert_same_training(&random_rows(1, 8), &[8], &[2, 2, 2, 2], 0.5);
}

#[test]
fn a_micro_batch_without_targets_adds_nothing() {
    let mut rows = random_rows(1, 8);
    for row in &mut rows[2..4] {
        row.labels.fill(-100);
    }
    assert_same_training(&rows, &[8], &[2, 2, 2, 2], 0.5);
}

#[test]
fn two_batches_of_one_with_dropout_give_the_step_of_one_batch_of_two() {
    // Some of its gradients are nearly zero.
    assert_same_training(&random_rows(0, 2), &[2], &[1, 1], 0.3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_split_gives_the_same_step(seed in 0..1000u64, sizes in prop::collection::vec(1..5usize, 1..6)) {
        let rows = random_rows(seed, sizes.iter().sum());
        prop_assume!(rows.iter().any(|row| row.labels.iter().any(|&label| label != -100)));
        assert_same_training(&rows, &[rows.len()], &sizes, 0.3);
    }
}

type Merge = fn(&Mlp, &[Batch]) -> Result<Batch, BoxError>;

/// An `Mlp` that records the number of samples of each pass, and merges with a given function.
struct Watched {
    mlp: Mlp,
    passes: RefCell<Vec<usize>>,
    merge: Merge,
}

impl Watched {
    fn new(merge: Merge) -> Self {
        Self { mlp: Mlp::with_dropout(5, 0.3), passes: RefCell::default(), merge }
    }
}

impl Task for Watched {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        self.passes.borrow_mut().push(batch.numbers.len());
        self.mlp.train_loss(batch, context)
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        (self.merge)(&self.mlp, batches)
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        self.mlp.eval_loss(batch)
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.numbers.len()
    }

    fn describe(&self, batch: &Batch) -> String {
        self.mlp.describe(batch)
    }
}

#[test]
fn micro_batches_are_fused_as_evenly_as_possible() {
    let rows = random_rows(1, 8);
    for (fuse, passes) in
        [(1, vec![2, 2, 2, 2]), (2, vec![4, 4]), (3, vec![4, 4]), (4, vec![8]), (9, vec![8])]
    {
        let task = Watched::new(Mlp::merge);
        train_fused(&task, &task.mlp, &rows, &[2; 4], fuse).unwrap();
        assert_eq!(task.passes.take(), passes.repeat(3), "up to {fuse} in each of three steps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Losses to f32 precision, and parameters, which SGD changes in proportion to their gradients.
    #[test]
    fn fused_micro_batches_give_the_step_of_separate_ones(
        seed in 0..1000u64,
        sizes in prop::collection::vec(1..4usize, 1..7),
        fuse in 2..7usize,
    ) {
        let rows = random_rows(seed, sizes.iter().sum());
        prop_assume!(rows.iter().any(|row| row.labels.iter().any(|&label| label != -100)));
        let trained = |fuse| {
            let mlp = Mlp::with_dropout(5, 0.3);
            let state = train_fused(&mlp, &mlp, &rows, &sizes, fuse).unwrap();
            let parameters: Vec<f32> = mlp.variables.values().flat_map(|variable| values(variable)).collect();
            (losses_and_norms(&state), parameters)
        };
        let (alone, fused) = (trained(1), trained(fuse));
        for (numbers, bound) in [(0, 1e-6), (1, 1e-5)] {
            for (alone, fused) in alone.0.iter().zip(&fused.0).skip(numbers).step_by(2) {
                prop_assert!((alone - fused).abs() <= bound * alone, "{alone}, fused {fused}");
            }
        }
        for (alone, fused) in alone.1.iter().zip(&fused.1) {
            prop_assert!((alone - fused).abs() <= 1e-5 * alone.abs().max(0.05), "{alone}, fused {fused}");
        }
    }
}

#[test]
fn a_nan_loss_is_located_among_fused_micro_batches() {
    let mut rows = random_rows(1, 8);
    for row in &mut rows {
        row.labels[0] = 1;
    }
    rows[5].x[2] = f32::NAN;
    for (fuse, passes) in [(1, vec![2, 2, 2, 2]), (2, vec![4, 4, 2]), (4, vec![8, 2, 2, 2])] {
        let task = Watched::new(Mlp::merge);
        let error = train_fused(&task, &task.mlp, &rows, &[2; 4], fuse).unwrap_err().to_string();
        let words = "step 1: the loss of micro-batch 3 of 4 is NaN";
        assert!(error.contains(words) && error.contains("rows 4, 5") && !error.contains("rows 2"), "{error}");
        // Its pass, and then the micro-batches of that pass one by one.
        assert_eq!(task.passes.take(), passes);
    }
}

#[test]
fn errors_of_merging_name_the_step_and_the_batches() {
    let rows = random_rows(1, 8);
    let refusal = |merge| {
        let task = Watched::new(merge);
        message(&train_fused(&task, &task.mlp, &rows, &[2; 4], 2).unwrap_err())
    };
    let nan = refusal(|mlp, batches| {
        let merged = mlp.merge(batches)?;
        Ok(Batch { x: (&merged.x * f64::NAN)?, ..merged })
    });
    assert!(nan.contains("the loss of micro-batches 1 to 2 of 4 is NaN"), "{nan}");
    assert!(nan.contains("rows 0, 1; rows 2, 3"), "{nan}");
    let lost = refusal(|_, batches| Ok(batches[0].clone()));
    assert_eq!(
        lost,
        "step 1: the task failed (batch: rows 0, 1; rows 2, 3): micro-batches of 4 samples were merged into one of 2"
    );
    let refused = refusal(|_, _| Err("no two are alike".into()));
    assert_eq!(refused, "step 1: the task failed (batch: rows 0, 1; rows 2, 3): no two are alike");
}

/// The gradient norm if the engine averaged the means of the micro-batches.
fn mean_of_means(mlp: &Mlp, batches: &[Batch], parameters: &Parameters) -> f64 {
    let context = StepContext { seed: 42, step: 0, first_sample: 0 };
    let mut sum = trainer_core::Gradients::new();
    for batch in batches {
        let LossSum { sum: loss, targets } = mlp.train_loss(batch, &context).unwrap();
        let mean: GradStore = (loss / targets as f64).unwrap().backward().unwrap();
        sum.accumulate(parameters, mean).unwrap();
    }
    sum.scale(1.0 / batches.len() as f64).unwrap();
    sum.norms().unwrap().global()
}

#[test]
fn a_step_is_not_a_mean_of_means() {
    // One batch has a single target, the other has six.
    let mut rows = random_rows(3, 4);
    for (index, row) in rows.iter_mut().enumerate() {
        row.labels = if index < 2 { vec![-100; 3] } else { vec![1, 2, 3] };
    }
    rows[0].labels[0] = 4;
    let batches = [batch(&rows, &[0, 1]), batch(&rows, &[2, 3])];
    let mlp = Mlp::new(5);
    let wrong = mean_of_means(&mlp, &batches, &mlp.parameters());
    let right = losses_and_norms(&train(&rows, &[2, 2], 0.0).0)[1];
    assert!((wrong - right).abs() > 0.05 * right, "the example does not distinguish them: {wrong}, {right}");
}

#[test]
fn the_last_step_of_an_epoch_takes_the_remaining_batches() {
    let source = Rows { rows: random_rows(4, 11), batch_size: 2, shuffle: None };
    assert_eq!(source.batches_per_epoch(), 6);
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments { num_train_epochs: 1.0, ..arguments(directory.path()) };
    let mlp = Mlp::new(5);
    let state = {
        let trainer = Trainer::new(arguments, mlp.parameters()).unwrap();
        trainer.fit(&mlp, &source, Some(&source)).unwrap().state().clone()
    };
    let epochs: Vec<_> = state
        .log_history
        .iter()
        .filter_map(|entry| match entry {
            LogEntry::Train { epoch, step, .. } => Some((*step, *epoch)),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [(1, 4.0 / 6.0), (2, 1.0)]);
}

/// An `Mlp` that computes its gradients itself for every second batch, and counts the losses that it is asked for. The gradients of all
/// passes are in the same memory.
struct OwnGradients {
    mlp: Mlp,
    passes: RefCell<[usize; 2]>,
    memory: RefCell<Option<(Tensor, Gradients)>>,
}

impl Task for OwnGradients {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        self.passes.borrow_mut()[0] += 1;
        self.mlp.train_loss(batch, context)
    }

    fn train_gradients(
        &self,
        batch: &Batch,
        context: &StepContext,
        parameters: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        if batch.numbers[0].is_multiple_of(4) {
            return Ok(None);
        }
        self.passes.borrow_mut()[1] += 1;
        let loss = self.mlp.train_loss(batch, context)?;
        let mut gradients = Gradients::new();
        gradients.accumulate(parameters, loss.sum.backward()?)?;
        let mut memory = self.memory.borrow_mut();
        let Some((sum, reused)) = &*memory else {
            let copy = |(name, gradient): (&str, &Tensor)| (name.to_owned(), gradient.copy().unwrap());
            let (sum, copies): (_, Gradients) =
                (loss.sum.detach().copy()?, gradients.iter().map(copy).collect());
            *memory = Some((sum.clone(), copies.clone()));
            return Ok(Some((LossSum { sum, ..loss }, copies)));
        };
        let overwrite =
            |to: &Tensor, from: &Tensor| to.flatten_all()?.slice_set(&from.detach().flatten_all()?, 0, 0);
        overwrite(sum, &loss.sum)?;
        for ((_, to), (_, from)) in reused.iter().zip(gradients.iter()) {
            overwrite(to, from)?;
        }
        Ok(Some((LossSum { sum: sum.clone(), ..loss }, reused.clone())))
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        self.mlp.eval_loss(batch)
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.numbers.len()
    }
}

#[test]
fn gradients_that_a_task_computes_itself_give_the_same_run() {
    let rows = random_rows(1, 8);
    let expected = train(&rows, &[2; 4], 0.3);
    let task = OwnGradients {
        mlp: Mlp::with_dropout(5, 0.3),
        passes: RefCell::default(),
        memory: RefCell::default(),
    };
    let state = train_fused(&task, &task.mlp, &rows, &[2; 4], 1).unwrap();
    let parameters: Vec<f32> = task.mlp.variables.values().flat_map(|variable| values(variable)).collect();
    assert_eq!(losses_and_norms(&state), losses_and_norms(&expected.0));
    assert_eq!(parameters, expected.1);
    assert_eq!(task.passes.take(), [6, 6]);
}
